package vmm

import "fmt"

// floor is the oldest release of each series that we start. It names the last hole
// that a guest could reach through the devices of our machine; holes in devices
// that it has not (which is most of QEMU's) do not count.
//
// A distribution that backports fixes without raising the number is refused too:
// there is no way to see it, and the host owner can give a newer binary.
var floor = []struct {
	series [2]int
	least  int
	holes  string
}{
	{[2]int{7, 2}, 11, "CVE-2024-3446: re-entrant DMA in virtio-serial frees twice"},
	{[2]int{8, 2}, 3, "CVE-2024-3446: re-entrant DMA in virtio-serial frees twice"},
	{[2]int{9, 0}, 0, ""},
}

// checkFloor says why a version is not good enough.
func checkFloor(v [3]int) error {
	series := [2]int{v[0], v[1]}
	newest := floor[len(floor)-1].series
	if less(newest, series) {
		return nil
	}
	for _, f := range floor {
		if f.series != series {
			continue
		}
		if v[2] < f.least {
			return fmt.Errorf("version %d.%d.%d is older than %d.%d.%d, which closed %s", v[0], v[1], v[2], series[0], series[1], f.least, f.holes)
		}
		return nil
	}
	return fmt.Errorf("version %d.%d.%d gets no security fixes: need 7.2.11, 8.2.3, 9.0 or newer", v[0], v[1], v[2])
}

func less(a, b [2]int) bool {
	return a[0] < b[0] || a[0] == b[0] && a[1] < b[1]
}

package vmm

import "fmt"

// floor is the oldest release of each series that we start. It names the last hole
// that a guest could reach through the devices of our machine; holes in devices
// that it has not (which is most of QEMU's) do not count.
//
// A distribution that backports fixes without raising the number is refused too:
// there is no way to see it, and the host owner can give a newer binary.
//
// # Holes in what our machine has
//
// From the release notes of the stable series and Debian's changelog:
//
//	CVE-2024-3446   virtio-serial  freed twice by re-entrant DMA; closed in 7.2.11, 8.2.3, 9.0.0: the floor
//	CVE-2023-6693   virtio-net     overflow when a header is copied, with hash reports only, which we do not
//	                               offer; closed in 7.2.9
//	CVE-2024-6505   virtio-net     a queue out of bounds, with RSS only, which we do not offer; closed in 7.2.14
//	CVE-2026-48914  virtio-blk     a SCSI request, although refused, is answered with four bytes that may reach
//	                               up to three beyond the guest's buffer; closed in 10.0.11, 10.2.4, 11.0.2
//	CVE-2024-8612   virtio-blk     a guest reads what is left on QEMU's heap by having a disk write to a
//	                               device's registers; open in all releases
//	issue 4073      virtio-net     the guard of CVE-2024-3446 is another device's; closed after 11.0
//	CVE-2026-66900  virtio-net     QEMU's issue 3879, of which we know no more; said to be closed in 10.0.14, 11.1.2
//
// The last four make no floor: of the series that distributions support, 7.2 to 9.2
// have no release without them. What they give a guest is its own QEMU at most,
// which is what the jail is for.
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

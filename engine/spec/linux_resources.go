package spec

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	minMemory    = 6 << 20 // bytes; less does not hold the runtime's own start
	cfsPeriod    = 100000  // microseconds, what --cpus is a share of
	minCFS       = 1000    // microseconds
	maxCFS       = 1000000 // microseconds
	minBlkWeight = 10
	maxBlkWeight = 1000
)

// Resources is the OCI form of a container's limits, for an update of a running
// one. Only what is set is in it.
func Resources(r *container.Resources, d Devices) (*specs.LinuxResources, error) {
	in := &Input{Host: &container.HostConfig{Resources: *r}, Devices: d}
	s := &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
	for _, rule := range []Rule{memory, cpu, blockIO, pids} {
		if err := rule(in, s); err != nil {
			return nil, err
		}
	}
	return s.Linux.Resources, nil
}

// cgroup puts the container below the parent that was asked for; otherwise the
// backend has a place of its own.
func cgroup(in *Input, s *specs.Spec) error {
	if in.CgroupParent != "" {
		s.Linux.CgroupsPath = path.Join("/", in.CgroupParent, in.ID)
	}
	return nil
}

func memory(in *Input, s *specs.Spec) error {
	r := &in.Host.Resources
	limit, swap, soft := r.Memory, r.MemorySwap, r.MemoryReservation
	switch {
	case limit != 0 && limit < minMemory:
		return invalid("Minimum memory limit allowed is 6MB")
	case limit > 0 && swap > 0 && swap < limit:
		return invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	case limit == 0 && swap > 0:
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case soft != 0 && soft < minMemory:
		return invalid("Minimum memory reservation allowed is 6MB")
	case limit > 0 && soft > limit:
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	}
	m := &specs.LinuxMemory{}
	if r.OomKillDisable != nil && *r.OomKillDisable {
		m.DisableOOMKiller = r.OomKillDisable
	}
	if limit > 0 {
		m.Limit = &limit
		if swap == 0 {
			swap = 2 * limit
		}
	}
	if swap != 0 {
		m.Swap = &swap
	}
	if soft > 0 {
		m.Reservation = &soft
	}
	if p := r.MemorySwappiness; p != nil && *p != -1 {
		if *p < 0 || *p > 100 {
			return invalid("Invalid value: %d, valid memory swappiness range is 0-100", *p)
		}
		v := uint64(*p)
		m.Swappiness = &v
	}
	if *m != (specs.LinuxMemory{}) {
		s.Linux.Resources.Memory = m
	}
	return nil
}

func cpu(in *Input, s *specs.Spec) error {
	r := &in.Host.Resources
	c := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	for _, set := range []struct{ name, value string }{{"CPU", r.CpusetCpus}, {"memory", r.CpusetMems}} {
		if err := checkSet(set.value); err != nil {
			return invalid("Invalid value %s for cpuset %ss", set.value, set.name)
		}
	}
	switch {
	case r.NanoCPUs < 0:
		return invalid("range of CPUs is from 0.01")
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return invalid("conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return invalid("conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.CPUShares < 0:
		return invalid("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	case r.CPUPeriod != 0 && (r.CPUPeriod < minCFS || r.CPUPeriod > maxCFS):
		return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < minCFS:
		return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	}
	if r.NanoCPUs > 0 {
		period := uint64(cfsPeriod)
		quota := r.NanoCPUs * cfsPeriod / 1e9
		if quota < minCFS {
			return invalid("range of CPUs is from 0.01")
		}
		c.Period, c.Quota = &period, &quota
	}
	if r.CPUPeriod != 0 {
		v := uint64(r.CPUPeriod)
		c.Period = &v
	}
	if v := r.CPUQuota; v != 0 {
		c.Quota = &v
	}
	if r.CPUShares != 0 {
		v := uint64(r.CPUShares)
		c.Shares = &v
	}
	if r.CPURealtimePeriod != 0 {
		v := uint64(r.CPURealtimePeriod)
		c.RealtimePeriod = &v
	}
	if v := r.CPURealtimeRuntime; v != 0 {
		c.RealtimeRuntime = &v
	}
	if *c != (specs.LinuxCPU{}) {
		s.Linux.Resources.CPU = c
	}
	return nil
}

// checkSet accepts the kernel's list format: 0-3,5.
func checkSet(set string) error {
	_, err := highest(set)
	return err
}

// HighestInSet is the highest number in a list such as 0-2,5; -1 if there is
// none or it is no such list, which Build tells.
func HighestInSet(set string) int {
	top, err := highest(set)
	if err != nil {
		return -1
	}
	return top
}

func highest(set string) (top int, err error) {
	top = -1
	if set == "" {
		return top, nil
	}
	for part := range strings.SplitSeq(set, ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(lo, 10, 16)
		if err != nil {
			return -1, err
		}
		b := a
		if isRange {
			if b, err = strconv.ParseUint(hi, 10, 16); err != nil {
				return -1, err
			}
		}
		if b < a {
			return -1, strconv.ErrRange
		}
		top = max(top, int(b))
	}
	return top, nil
}

func pids(in *Input, s *specs.Spec) error {
	if p := in.Host.PidsLimit; p != nil && *p != 0 {
		v := *p
		if v < 0 {
			v = -1
		}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &v}
	}
	return nil
}

func blockIO(in *Input, s *specs.Spec) error {
	r := &in.Host.Resources
	b := &specs.LinuxBlockIO{}
	used := false
	if w := r.BlkioWeight; w != 0 {
		if w < minBlkWeight || w > maxBlkWeight {
			return invalid("range of blkio weight is from 10 to 1000")
		}
		b.Weight, used = &w, true
	}
	for _, wd := range r.BlkioWeightDevice {
		if wd.Weight < minBlkWeight || wd.Weight > maxBlkWeight {
			return invalid("range of blkio weight is from 10 to 1000")
		}
		major, minor, err := number(in.Devices, wd.Path)
		if err != nil {
			return err
		}
		var d specs.LinuxWeightDevice
		d.Major, d.Minor, d.Weight = major, minor, &wd.Weight
		b.WeightDevice, used = append(b.WeightDevice, d), true
	}
	for _, t := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioDeviceReadBps, &b.ThrottleReadBpsDevice},
		{r.BlkioDeviceWriteBps, &b.ThrottleWriteBpsDevice},
		{r.BlkioDeviceReadIOps, &b.ThrottleReadIOPSDevice},
		{r.BlkioDeviceWriteIOps, &b.ThrottleWriteIOPSDevice},
	} {
		for _, td := range t.from {
			major, minor, err := number(in.Devices, td.Path)
			if err != nil {
				return err
			}
			d := specs.LinuxThrottleDevice{Rate: td.Rate}
			d.Major, d.Minor = major, minor
			*t.to, used = append(*t.to, d), true
		}
	}
	if used {
		s.Linux.Resources.BlockIO = b
	}
	return nil
}

// number is the device number of a block device that a limit names.
func number(d Devices, p string) (major, minor int64, err error) {
	if d == nil {
		return 0, 0, invalid("device %s: this host has no device nodes", p)
	}
	ds, err := d.Resolve(p, p)
	if err != nil {
		return 0, 0, fmt.Errorf("device %s: %w", p, err)
	}
	if len(ds) != 1 || ds[0].Type != "b" {
		return 0, 0, invalid("%s is not a block device", p)
	}
	return ds[0].Major, ds[0].Minor, nil
}

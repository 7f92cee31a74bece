package cgroup

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// setting is one limit as one write into a control file.
type setting struct {
	what       string // for warnings and errors: "memory limit"
	controller string // version 1 hierarchy; "" in version 2
	file       string
	value      string
	// pair names a group of two neighbouring settings of which the kernel wants
	// one first when they grow and the other first when they shrink.
	pair string
	// next is tried where the kernel does not have file.
	next *setting
}

// settings translates OCI limits for version 1 or 2. What cannot be said in
// that version comes back as a warning.
func settings(version int, r *specs.LinuxResources) ([]setting, []string, error) {
	if r == nil {
		return nil, nil, nil
	}
	for k := range r.Unified {
		if k == "" || strings.ContainsAny(k, "/\x00") || !strings.Contains(k, ".") || strings.HasPrefix(k, "cgroup.") {
			return nil, nil, fmt.Errorf("unified cgroup setting %q is not the name of a controller's file: %w", k, errdefs.ErrInvalidArgument)
		}
	}
	t := translation{version: version}
	t.memory(r.Memory)
	t.cpu(r.CPU)
	t.blockIO(r.BlockIO)
	if r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit != 0 {
		t.add("pids limit", "pids", "pids.max", "pids.max", maxOr(*r.Pids.Limit, "max"))
	}
	for _, l := range r.HugepageLimits {
		if strings.ContainsAny(l.Pagesize, "/\x00") {
			return nil, nil, fmt.Errorf("huge page size %q: %w", l.Pagesize, errdefs.ErrInvalidArgument)
		}
		t.add("huge page limit", "hugetlb", "hugetlb."+l.Pagesize+".limit_in_bytes", "hugetlb."+l.Pagesize+".max", strconv.FormatUint(l.Limit, 10))
	}
	if n := r.Network; n != nil {
		if n.ClassID != nil && *n.ClassID != 0 {
			t.add("network class", "net_cls", "net_cls.classid", "", strconv.FormatUint(uint64(*n.ClassID), 10))
		}
		for _, p := range n.Priorities {
			t.add("network priority", "net_prio", "net_prio.ifpriomap", "", fmt.Sprintf("%s %d", p.Name, p.Priority))
		}
	}
	for _, dev := range sortedKeys(r.Rdma) {
		l := r.Rdma[dev]
		value := dev
		if l.HcaHandles != nil {
			value += fmt.Sprintf(" hca_handle=%d", *l.HcaHandles)
		}
		if l.HcaObjects != nil {
			value += fmt.Sprintf(" hca_object=%d", *l.HcaObjects)
		}
		t.add("rdma limit", "rdma", "rdma.max", "rdma.max", value)
	}
	for _, k := range sortedKeys(r.Unified) {
		t.add("unified setting", "", "", k, r.Unified[k])
	}
	return t.settings, t.warnings, nil
}

type translation struct {
	version  int
	settings []setting
	warnings []string
}

// add appends a setting under its file name of the host's version; "" says that
// the version has no such thing.
func (t *translation) add(what, controller, v1, v2, value string) *setting {
	file := v1
	if t.version == 2 {
		file, controller = v2, ""
	}
	if file == "" {
		t.warnings = append(t.warnings, fmt.Sprintf("%s is not available with cgroup version %d and was ignored", what, t.version))
		return &setting{}
	}
	t.settings = append(t.settings, setting{what: what, controller: controller, file: file, value: value})
	return &t.settings[len(t.settings)-1]
}

func (t *translation) memory(m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	limit := value(m.Limit)
	if limit != 0 {
		t.add("memory limit", "memory", "memory.limit_in_bytes", "memory.max", t.unlimited(limit)).pair = "memory"
	}
	if swap := value(m.Swap); swap != 0 {
		if t.version == 2 {
			// Version 2 counts swap alone, OCI memory and swap together.
			switch {
			case swap < 0:
			case limit <= 0 || swap < limit:
				t.warnings = append(t.warnings, "swap limit without a smaller memory limit was ignored")
				swap = 0
			default:
				swap -= limit
				t.add("swap limit", "memory", "", "memory.swap.max", strconv.FormatInt(swap, 10))
				swap = 0
			}
		}
		if swap != 0 {
			t.add("swap limit", "memory", "memory.memsw.limit_in_bytes", "memory.swap.max", t.unlimited(swap)).pair = "memory"
		}
	}
	if v := value(m.Reservation); v != 0 {
		t.add("memory reservation", "memory", "memory.soft_limit_in_bytes", "memory.low", t.unlimited(v))
	}
	if v := value(m.KernelTCP); v != 0 {
		t.add("kernel TCP memory limit", "memory", "memory.kmem.tcp.limit_in_bytes", "", t.unlimited(v))
	}
	if m.Swappiness != nil {
		t.add("memory swappiness", "memory", "memory.swappiness", "", strconv.FormatUint(*m.Swappiness, 10))
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		t.add("disabling the OOM killer", "memory", "memory.oom_control", "", "1")
	}
}

func (t *translation) cpu(c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	if v := value(c.Shares); v != 0 {
		t.add("CPU shares", "cpu", "cpu.shares", "cpu.weight", map[bool]string{
			true:  strconv.FormatUint(sharesToWeight(v), 10),
			false: strconv.FormatUint(v, 10),
		}[t.version == 2])
	}
	period, quota := value(c.Period), value(c.Quota)
	if t.version == 2 {
		if period != 0 || quota != 0 {
			max := "max"
			if quota > 0 {
				max = strconv.FormatInt(quota, 10)
			}
			if period != 0 {
				max += " " + strconv.FormatUint(period, 10)
			}
			t.add("CPU quota", "", "", "cpu.max", max)
		}
	} else {
		if period != 0 {
			t.add("CPU period", "cpu", "cpu.cfs_period_us", "", strconv.FormatUint(period, 10)).pair = "cpu"
		}
		if quota != 0 {
			t.add("CPU quota", "cpu", "cpu.cfs_quota_us", "", strconv.FormatInt(max(quota, -1), 10)).pair = "cpu"
		}
	}
	if v := value(c.Burst); v != 0 {
		t.add("CPU burst", "cpu", "cpu.cfs_burst_us", "cpu.max.burst", strconv.FormatUint(v, 10))
	}
	if v := value(c.RealtimePeriod); v != 0 {
		t.add("CPU realtime period", "cpu", "cpu.rt_period_us", "", strconv.FormatUint(v, 10)).pair = "realtime"
	}
	if v := value(c.RealtimeRuntime); v != 0 {
		t.add("CPU realtime runtime", "cpu", "cpu.rt_runtime_us", "", strconv.FormatInt(v, 10)).pair = "realtime"
	}
	if c.Idle != nil && *c.Idle != 0 {
		t.add("CPU idle", "cpu", "cpu.idle", "cpu.idle", strconv.FormatInt(*c.Idle, 10))
	}
	if c.Cpus != "" {
		t.add("CPU set", "cpuset", "cpuset.cpus", "cpuset.cpus", c.Cpus)
	}
	if c.Mems != "" {
		t.add("memory node set", "cpuset", "cpuset.mems", "cpuset.mems", c.Mems)
	}
}

func (t *translation) blockIO(b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	if w := value(b.Weight); w != 0 {
		v := strconv.Itoa(int(w))
		if t.version == 2 {
			t.add("block I/O weight", "", "", "io.bfq.weight", v).next =
				&setting{what: "block I/O weight", file: "io.weight", value: "default " + strconv.FormatUint(blkioToIOWeight(w), 10)}
		} else {
			t.add("block I/O weight", "blkio", "blkio.weight", "", v).next =
				&setting{what: "block I/O weight", controller: "blkio", file: "blkio.bfq.weight", value: v}
		}
	}
	for _, d := range b.WeightDevice {
		if w := value(d.Weight); w != 0 {
			v := fmt.Sprintf("%d:%d %d", d.Major, d.Minor, w)
			if t.version == 2 {
				t.add("block I/O weight of a device", "", "", "io.bfq.weight", v).next =
					&setting{what: "block I/O weight of a device", file: "io.weight", value: fmt.Sprintf("%d:%d %d", d.Major, d.Minor, blkioToIOWeight(w))}
			} else {
				t.add("block I/O weight of a device", "blkio", "blkio.weight_device", "", v).next =
					&setting{what: "block I/O weight of a device", controller: "blkio", file: "blkio.bfq.weight_device", value: v}
			}
		}
	}
	for _, l := range []struct {
		what, v1, v2 string
		devices      []specs.LinuxThrottleDevice
	}{
		{"read rate limit", "blkio.throttle.read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"write rate limit", "blkio.throttle.write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"read operations limit", "blkio.throttle.read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"write operations limit", "blkio.throttle.write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range l.devices {
			if t.version == 2 {
				rate := strconv.FormatUint(d.Rate, 10)
				if d.Rate == 0 {
					rate = "max"
				}
				t.add(l.what, "", "", "io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, l.v2, rate))
			} else {
				t.add(l.what, "blkio", l.v1, "", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
			}
		}
	}
}

// unlimited writes a byte count, of which -1 is no limit.
func (t *translation) unlimited(v int64) string {
	if t.version == 2 {
		return maxOr(v, "max")
	}
	return maxOr(v, "-1")
}

func maxOr(v int64, unlimited string) string {
	if v < 0 {
		return unlimited
	}
	return strconv.FormatInt(v, 10)
}

func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// sharesToWeight maps version 1 CPU shares (2 to 262144, default 1024) to
// version 2 weights (1 to 10000, default 100) so that the two ends and the
// default meet, by a quadratic in the logarithm: the OCI runtimes' formula.
func sharesToWeight(shares uint64) uint64 {
	switch {
	case shares == 0:
		return 0
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// blkioToIOWeight maps 10…1000 linearly to 1…10000.
func blkioToIOWeight(w uint16) uint64 {
	if w < 10 {
		return 1
	}
	return min(1+(uint64(w)-10)*9999/990, 10000)
}

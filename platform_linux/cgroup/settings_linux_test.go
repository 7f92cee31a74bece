package cgroup

import (
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestSharesToWeight(t *testing.T) {
	for _, c := range []struct{ shares, weight uint64 }{
		{0, 0}, {1, 1}, {2, 1}, {1024, 100}, {262144, 10000}, {1 << 40, 10000},
	} {
		if got := sharesToWeight(c.shares); got != c.weight {
			t.Errorf("sharesToWeight(%d) = %d, want %d", c.shares, got, c.weight)
		}
	}
	for s := uint64(3); s < 262144; s++ {
		if sharesToWeight(s) < sharesToWeight(s-1) {
			t.Fatalf("weight shrinks at %d shares", s)
		}
	}
}

func TestBlkioToIOWeight(t *testing.T) {
	for _, c := range []struct {
		in   uint16
		want uint64
	}{{0, 1}, {10, 1}, {1000, 10000}, {65535, 10000}, {505, 5000}} {
		if got := blkioToIOWeight(c.in); got != c.want {
			t.Errorf("blkioToIOWeight(%d) = %d, want %d", c.in, got, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	dev := specs.LinuxThrottleDevice{Rate: 5}
	dev.Major, dev.Minor = 8, 16
	for _, c := range []struct {
		name   string
		in     specs.LinuxResources
		v1, v2 []string
		warn1  int
		warn2  int
	}{
		{name: "nothing", in: specs.LinuxResources{}},
		{
			name: "memory and swap",
			in:   specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(100)), Swap: new(int64(150)), Reservation: new(int64(50))}},
			v1:   []string{"memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=150", "memory.soft_limit_in_bytes=50"},
			v2:   []string{"memory.max=100", "memory.swap.max=50", "memory.low=50"},
		},
		{
			name: "unlimited",
			in:   specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(-1)), Swap: new(int64(-1))}, Pids: &specs.LinuxPids{Limit: new(int64(-1))}},
			v1:   []string{"memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1", "pids.max=max"},
			v2:   []string{"memory.max=max", "memory.swap.max=max", "pids.max=max"},
		},
		{
			name: "swap equal to memory is no swap",
			in:   specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(100)), Swap: new(int64(100))}},
			v1:   []string{"memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=100"},
			v2:   []string{"memory.max=100", "memory.swap.max=0"},
		},
		{
			name: "cpu",
			in:   specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(1024)), Quota: new(int64(50000)), Period: new(uint64(100000)), Cpus: "0-1", Mems: "0"}},
			v1:   []string{"cpu.shares=1024", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000", "cpuset.cpus=0-1", "cpuset.mems=0"},
			v2:   []string{"cpu.weight=100", "cpu.max=50000 100000", "cpuset.cpus=0-1", "cpuset.mems=0"},
		},
		{
			name:  "what version 2 has not",
			in:    specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: new(uint64(10)), DisableOOMKiller: new(true)}},
			v1:    []string{"memory.swappiness=10", "memory.oom_control=1"},
			warn2: 2,
		},
		{
			name: "block I/O",
			in: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
				Weight: new(uint16(1000)), ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{dev}, ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{dev},
			}},
			v1: []string{"blkio.weight=1000", "blkio.throttle.read_bps_device=8:16 5", "blkio.throttle.write_iops_device=8:16 5"},
			v2: []string{"io.bfq.weight=1000", "io.max=8:16 rbps=5", "io.max=8:16 wiops=5"},
		},
		{
			name:  "unified",
			in:    specs.LinuxResources{Unified: map[string]string{"memory.high": "5", "cpu.idle": "1"}},
			v2:    []string{"cpu.idle=1", "memory.high=5"},
			warn1: 2,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			for version, want := range map[int][]string{1: c.v1, 2: c.v2} {
				list, warnings, err := settings(version, &c.in)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, s := range list {
					got = append(got, s.file+"="+s.value)
				}
				if !slices.Equal(got, want) {
					t.Errorf("version %d: got %q, want %q", version, got, want)
				}
				if n := map[int]int{1: c.warn1, 2: c.warn2}[version]; len(warnings) != n {
					t.Errorf("version %d: warnings %q, want %d", version, warnings, n)
				}
			}
		})
	}
}

func TestSettingsRefuseForeignFiles(t *testing.T) {
	for _, k := range []string{"", "../x.y", "a/b.c", "cgroup.procs", "tasks"} {
		_, _, err := settings(2, &specs.LinuxResources{Unified: map[string]string{k: "1"}})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("unified setting %q: %v", k, err)
		}
	}
	if _, _, err := settings(1, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../x"}}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("huge page size with a slash: %v", err)
	}
}

func TestStatsParsers(t *testing.T) {
	v1 := ioV1("8:0 Read 10\n8:0 Write 20\nTotal 30\n", "8:0 Read 1\n8:0 Write 2\n")
	if len(v1) != 2 || v1[0] != (IOStat{8, 0, "Read", 10, 1}) || v1[1] != (IOStat{8, 0, "Write", 20, 2}) {
		t.Errorf("version 1: %+v", v1)
	}
	v2 := ioV2("8:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:32\n")
	if len(v2) != 2 || v2[1] != (IOStat{8, 16, "Write", 20, 2}) {
		t.Errorf("version 2: %+v", v2)
	}
}

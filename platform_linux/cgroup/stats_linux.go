package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Stats are a group's counters at one moment. What the host does not count is 0.
type Stats struct {
	CPU       CPUStats
	Memory    MemoryStats
	Pids      uint64
	PidsLimit uint64 // 0: none
	IO        []IOStat
	OOMKills  uint64 // processes that the kernel killed for memory
}

// CPUStats are in nanoseconds.
type CPUStats struct {
	Total, User, System       uint64
	PerCPU                    []uint64 // version 1 only
	Periods, ThrottledPeriods uint64
	ThrottledTime             uint64
}

// MemoryStats are in bytes; Stats holds the lines of the kernel's memory.stat.
type MemoryStats struct {
	Usage, MaxUsage, Limit uint64 // Limit 0: none
	FailCount              uint64
	Stats                  map[string]uint64
}

// IOStat counts one kind of operation on one block device.
type IOStat struct {
	Major, Minor uint64
	Op           string // Read, Write, Sync, Async, Discard, Total
	Bytes, IOs   uint64
}

// Stats reads the counters. Errors: NotFound if the group is gone.
func (g *Group) Stats() (*Stats, error) {
	s := &Stats{}
	var err error
	if g.host.Version() == 2 {
		err = g.statsV2(s)
	} else {
		err = g.statsV1(s)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// OOMKills tells how many processes of the group the kernel killed for memory;
// 0 if it cannot be known. The counter costs nothing while nobody reads it.
func (g *Group) OOMKills() uint64 {
	if g.host.Version() == 2 {
		return fields(filepath.Join(g.unified(), "memory.events"))["oom_kill"]
	}
	if g.host.v1["memory"] == "" {
		return 0
	}
	return fields(filepath.Join(g.v1("memory"), "memory.oom_control"))["oom_kill"]
}

func (g *Group) statsV1(s *Stats) error {
	found := false
	if g.host.v1["cpuacct"] != "" {
		dir := g.v1("cpuacct")
		found = exists(dir)
		s.CPU.Total = number(dir, "cpuacct.usage")
		s.CPU.User = number(dir, "cpuacct.usage_user")
		s.CPU.System = number(dir, "cpuacct.usage_sys")
		for _, f := range strings.Fields(text(dir, "cpuacct.usage_percpu")) {
			n, _ := strconv.ParseUint(f, 10, 64)
			s.CPU.PerCPU = append(s.CPU.PerCPU, n)
		}
	}
	if g.host.v1["cpu"] != "" {
		dir := g.v1("cpu")
		found = found || exists(dir)
		f := fields(filepath.Join(dir, "cpu.stat"))
		s.CPU.Periods, s.CPU.ThrottledPeriods, s.CPU.ThrottledTime = f["nr_periods"], f["nr_throttled"], f["throttled_time"]
	}
	if g.host.v1["memory"] != "" {
		dir := g.v1("memory")
		found = found || exists(dir)
		s.Memory = MemoryStats{
			Usage: number(dir, "memory.usage_in_bytes"), MaxUsage: number(dir, "memory.max_usage_in_bytes"),
			Limit: number(dir, "memory.limit_in_bytes"), FailCount: number(dir, "memory.failcnt"),
			Stats: fields(filepath.Join(dir, "memory.stat")),
		}
		if s.Memory.Limit >= math.MaxInt64&^0xffff { // the kernel's "none", rounded down to pages
			s.Memory.Limit = 0
		}
	}
	if g.host.v1["pids"] != "" {
		dir := g.v1("pids")
		found = found || exists(dir)
		s.Pids, s.PidsLimit = number(dir, "pids.current"), number(dir, "pids.max")
	}
	if g.host.v1["blkio"] != "" {
		s.IO = ioV1(text(g.v1("blkio"), "blkio.throttle.io_service_bytes_recursive"), text(g.v1("blkio"), "blkio.throttle.io_serviced_recursive"))
	}
	s.OOMKills = g.OOMKills()
	if !found {
		return g.gone()
	}
	return nil
}

func (g *Group) statsV2(s *Stats) error {
	dir := g.unified()
	if !exists(dir) {
		return g.gone()
	}
	f := fields(filepath.Join(dir, "cpu.stat"))
	s.CPU = CPUStats{
		Total: f["usage_usec"] * 1000, User: f["user_usec"] * 1000, System: f["system_usec"] * 1000,
		Periods: f["nr_periods"], ThrottledPeriods: f["nr_throttled"], ThrottledTime: f["throttled_usec"] * 1000,
	}
	events := fields(filepath.Join(dir, "memory.events"))
	s.Memory = MemoryStats{
		Usage: number(dir, "memory.current"), MaxUsage: number(dir, "memory.peak"), Limit: number(dir, "memory.max"),
		FailCount: events["max"], Stats: fields(filepath.Join(dir, "memory.stat")),
	}
	s.OOMKills = events["oom_kill"]
	s.Pids, s.PidsLimit = number(dir, "pids.current"), number(dir, "pids.max")
	s.IO = ioV2(text(dir, "io.stat"))
	return nil
}

func (g *Group) gone() error {
	return fmt.Errorf("cgroup %s does not exist: %w", g.path, errdefs.ErrNotFound)
}

// ioV1 joins the two files of lines "major:minor Op count".
func ioV1(bytes, serviced string) []IOStat {
	var list []IOStat
	index := map[string]int{}
	for pass, content := range []string{bytes, serviced} {
		for line := range strings.SplitSeq(content, "\n") {
			f := strings.Fields(line)
			if len(f) != 3 {
				continue
			}
			major, minor, ok := deviceNumber(f[0])
			n, err := strconv.ParseUint(f[2], 10, 64)
			if !ok || err != nil {
				continue
			}
			i, known := index[f[0]+f[1]]
			if !known {
				i = len(list)
				index[f[0]+f[1]] = i
				list = append(list, IOStat{Major: major, Minor: minor, Op: f[1]})
			}
			if pass == 0 {
				list[i].Bytes = n
			} else {
				list[i].IOs = n
			}
		}
	}
	return list
}

// ioV2 reads lines "major:minor rbytes=… wbytes=… rios=… wios=… dbytes=… dios=…".
func ioV2(content string) []IOStat {
	var list []IOStat
	for line := range strings.SplitSeq(content, "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		major, minor, ok := deviceNumber(f[0])
		if !ok {
			continue
		}
		v := map[string]uint64{}
		for _, kv := range f[1:] {
			k, n, _ := strings.Cut(kv, "=")
			v[k], _ = strconv.ParseUint(n, 10, 64)
		}
		for _, op := range []struct{ name, key string }{{"Read", "r"}, {"Write", "w"}, {"Discard", "d"}} {
			if v[op.key+"bytes"] != 0 || v[op.key+"ios"] != 0 {
				list = append(list, IOStat{Major: major, Minor: minor, Op: op.name, Bytes: v[op.key+"bytes"], IOs: v[op.key+"ios"]})
			}
		}
	}
	return list
}

func deviceNumber(s string) (major, minor uint64, ok bool) {
	a, b, found := strings.Cut(s, ":")
	major, err1 := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	return major, minor, found && err1 == nil && err2 == nil
}

func text(dir, file string) string {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return string(b)
}

// number reads one counter; "max" and what is missing are 0.
func number(dir, file string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSpace(text(dir, file)), 10, 64)
	return n
}

// fields reads lines "name number".
func fields(file string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.SplitSeq(text(filepath.Dir(file), filepath.Base(file)), "\n") {
		k, v, ok := strings.Cut(line, " ")
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 64); err == nil {
			m[k] = n
		}
	}
	return m
}

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// namespaces are those of namespaces(7), in the order of the report.
var namespaces = []string{"pid", "mnt", "uts", "ipc", "net", "cgroup", "time", "user"}

func platformFacts() []fact {
	status := procStatus()
	return []fact{
		{"level", level()},
		{"kernel", firstLine("/proc/sys/kernel/osrelease")},
		{"pid", strconv.Itoa(os.Getpid())},
		{"user", fmt.Sprintf("uid %d gid %d", os.Getuid(), os.Getgid())},
		{"namespaces", namespaceIDs()},
		{"user mapping", strings.Join(strings.Fields(firstLine("/proc/self/uid_map")), " ")},
		{"capabilities", status["CapEff"]},
		{"no new privs", status["NoNewPrivs"]},
		{"seccomp", seccompModes[status["Seccomp"]]},
		{"memory limit", limit("memory.max", "memory/memory.limit_in_bytes")},
		{"pids limit", limit("pids.max", "pids/pids.max")},
		{"cpu limit", limit("cpu.max", "cpu/cpu.cfs_quota_us")},
		{"network", interfaces()},
	}
}

// seccompModes are the values of Seccomp in proc_pid_status(5).
var seccompModes = map[string]string{"0": "off", "1": "strict", "2": "filter"}

// level tells a virtual machine of ours by its kernel command line, which a
// container at the process level shares with its host, and gVisor by its name.
func level() string {
	if strings.Contains(firstLine("/proc/cmdline"), "caisson.guest=1") {
		return "vm"
	}
	if strings.Contains(firstLine("/proc/sys/kernel/osrelease"), "gvisor") {
		return "a kernel of its own (gVisor)"
	}
	return "process"
}

func procStatus() map[string]string {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		m[key] = strings.TrimSpace(value)
	}
	return m
}

func namespaceIDs() string {
	var ids []string
	for _, ns := range namespaces {
		link, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			continue
		}
		_, id, _ := strings.Cut(link, ":")
		ids = append(ids, ns+strings.ReplaceAll(strings.ReplaceAll(id, "[", " "), "]", ""))
	}
	return strings.Join(ids, ", ")
}

// unlimitedV1 is what cgroup v1 shows for memory without a limit: the largest
// page-aligned int64.
const unlimitedV1 = "9223372036854771712"

// limit reads a cgroup v2 file or its v1 counterpart.
func limit(v2, v1 string) string {
	for _, path := range []string{"/sys/fs/cgroup/" + v2, "/sys/fs/cgroup/" + v1} {
		switch v := firstLine(path); v {
		case "":
		case "max", "-1", unlimitedV1, "max 100000":
			return "none"
		default:
			return v
		}
	}
	return ""
}

// interfaces lists the network interfaces by name, which needs no netlink.
func interfaces() string {
	b, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return ""
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return strings.Join(names, ", ")
}

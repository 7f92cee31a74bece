//go:build linux

package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/initproc"
)

const cgroupRoot = "/sys/fs/cgroup"

// hostCgroups are the host's v1 hierarchies with their mount options; none on a
// host with cgroup v2 only.
type hostCgroups = []initproc.Cgroup

// readHostCgroups looks once; hierarchies do not come and go under an engine.
func readHostCgroups() (hostCgroups, error) {
	if !hostHasV1() {
		return nil, nil
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	list := parseHierarchies(string(text))
	for i := range list {
		list[i].Links = linksTo(list[i].Dir)
	}
	return list, nil
}

// hostHasV1 is also false where there are no cgroups at all.
func hostHasV1() bool {
	var fs unix.Statfs_t
	err := unix.Statfs(cgroupRoot, &fs)
	return err == nil && fs.Type != unix.CGROUP2_SUPER_MAGIC
}

// parseHierarchies reads /proc/self/mountinfo: fields, " - ", type, source,
// options.
func parseHierarchies(mountinfo string) hostCgroups {
	var list hostCgroups
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		dir, ok := strings.CutPrefix(l[4], cgroupRoot+"/")
		if !ok || strings.Contains(dir, "/") || slices.ContainsFunc(list, func(g initproc.Cgroup) bool { return g.Dir == dir }) {
			continue
		}
		switch r[0] {
		case "cgroup2":
			list = append(list, initproc.Cgroup{Dir: dir, V2: true})
		case "cgroup":
			g := initproc.Cgroup{Dir: dir}
			for o := range strings.SplitSeq(r[2], ",") {
				// The rest are flags of the mount, not what selects the hierarchy.
				if o != "rw" && o != "ro" && o != "xattr" && o != "clone_children" && o != "noprefix" && o != "cpuset_v2_mode" && !strings.HasPrefix(o, "release_agent=") {
					g.Options = append(g.Options, o)
				}
			}
			list = append(list, g)
		}
	}
	return list
}

// linksTo finds the other names of a hierarchy, as cpu for cpu,cpuacct.
func linksTo(dir string) []string {
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil
	}
	var links []string
	for _, e := range entries {
		if e.Type()&os.ModeSymlink == 0 {
			continue
		}
		if to, err := os.Readlink(filepath.Join(cgroupRoot, e.Name())); err == nil && to == dir {
			links = append(links, e.Name())
		}
	}
	return links
}

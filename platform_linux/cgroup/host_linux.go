package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Host is what this host has of control groups. It is safe for concurrent use.
type Host struct {
	v1      map[string]string // controller → mount point; named hierarchies as "name=systemd"
	v1Names []string          // keys of v1, sorted, one per hierarchy
	unified string            // mount point of version 2, "" if there is none
	v2      []string          // controllers that version 2 has

	mu      sync.Mutex
	parents map[string]bool // parents already made and prepared
}

// controllers that limits and counters need, with what is lost without each.
var controllers = []struct{ name, v1, loses string }{
	{"memory", "memory", "memory limits and memory statistics"},
	{"cpu", "cpu", "CPU shares and quotas"},
	{"cpuset", "cpuset", "pinning to CPUs and memory nodes"},
	{"pids", "pids", "limits on the number of processes"},
	{"io", "blkio", "block I/O limits and statistics"},
}

// Open reads which hierarchies are mounted. It fails with Unavailable if there
// are none at all.
func Open() (*Host, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("control groups: %w (%w)", err, errdefs.ErrUnavailable)
	}
	defer f.Close()
	h := &Host{v1: map[string]string{}, parents: map[string]bool{}}
	seen := map[string]bool{} // hierarchies, by their option list: one may be mounted twice
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, ok := strings.Cut(s.Text(), " - ")
		if !ok {
			continue
		}
		head, tail := strings.Fields(before), strings.Fields(after)
		if len(head) < 6 || len(tail) < 3 {
			continue
		}
		switch tail[0] {
		case "cgroup2":
			if h.unified == "" {
				h.unified = head[4]
			}
		case "cgroup":
			names := v1Controllers(tail[2])
			if len(names) == 0 || seen[names[0]] {
				continue
			}
			for _, n := range names {
				h.v1[n], seen[n] = head[4], true
			}
			h.v1Names = append(h.v1Names, names[0])
		}
	}
	slices.Sort(h.v1Names)
	if h.unified == "" && len(h.v1) == 0 {
		return nil, fmt.Errorf("no control group hierarchy is mounted below /sys/fs/cgroup: %w", errdefs.ErrUnavailable)
	}
	if h.unified != "" {
		b, err := os.ReadFile(filepath.Join(h.unified, "cgroup.controllers"))
		if err == nil {
			h.v2 = strings.Fields(string(b))
		}
	}
	return h, nil
}

// v1Controllers picks the hierarchy's names out of its super block's options.
func v1Controllers(options string) []string {
	var names []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "ro", "clone_children", "noprefix", "xattr", "cpuset_v2_mode", "favordynmods":
		default:
			if !strings.HasPrefix(o, "release_agent=") {
				names = append(names, o)
			}
		}
	}
	return names
}

// Version is 2 if limits go through version 2, else 1.
func (h *Host) Version() int {
	if len(h.v1Names) == 0 || len(h.v2) > 0 && h.v1["memory"] == "" {
		return 2
	}
	return 1
}

// Hybrid tells that version 2 is mounted beside version 1.
func (h *Host) Hybrid() bool { return h.unified != "" && len(h.v1Names) > 0 }

// Has tells whether a controller, by its version 2 name, can be used.
func (h *Host) Has(controller string) bool {
	if slices.Contains(h.v2, controller) {
		return true
	}
	for _, c := range controllers {
		if c.name == controller {
			return h.v1[c.v1] != ""
		}
	}
	return h.v1[controller] != ""
}

// Warnings name what this host lacks, a sentence each.
func (h *Host) Warnings() []string {
	var w []string
	for _, c := range controllers {
		if !h.Has(c.name) {
			w = append(w, fmt.Sprintf("no %s cgroup controller: %s are not available", c.name, c.loses))
		}
	}
	if h.Version() == 1 && h.v1["memory"] != "" && !exists(filepath.Join(h.v1["memory"], "memory.memsw.limit_in_bytes")) {
		w = append(w, "no swap accounting: swap limits are not available (boot with swapaccount=1)")
	}
	if h.Version() == 1 && h.v1["devices"] == "" {
		w = append(w, "no devices cgroup controller: containers with device rules are refused")
	}
	return w
}

// Create makes the group at path with limits, and what is missing above it. It
// returns warnings for limits that the host cannot set. Errors: AlreadyExists if
// the group exists and has processes in it; an empty one of that name is what a
// crash left and is used again.
func (h *Host) Create(p string, limits *specs.LinuxResources) (*Group, []string, error) {
	g, err := h.Load(p)
	if err != nil {
		return nil, nil, err
	}
	if err := h.prepareParent(path.Dir(g.path)); err != nil {
		return nil, nil, err
	}
	for _, d := range g.dirs() {
		if err := mkdir(d); err != nil {
			return nil, nil, errors.Join(err, g.remove())
		}
	}
	warnings, err := g.apply(limits, true)
	if err != nil {
		return nil, nil, errors.Join(err, g.remove())
	}
	return g, warnings, nil
}

// Load returns a handle for a group that was created before, without checking
// that it still exists.
func (h *Host) Load(p string) (*Group, error) {
	clean := path.Clean(p)
	if !path.IsAbs(p) || clean != p || clean == "/" {
		return nil, fmt.Errorf("cgroup path %q must be absolute, clean and not the root: %w", p, errdefs.ErrInvalidArgument)
	}
	return &Group{host: h, path: clean}, nil
}

// DeleteParent removes an empty group that Create made above others. One that
// is in use stays.
func (h *Host) DeleteParent(p string) error {
	g, err := h.Load(p)
	if err != nil {
		return err
	}
	h.mu.Lock()
	delete(h.parents, g.path)
	h.mu.Unlock()
	for _, d := range g.dirs() {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cgroup %s: %w", d, err)
		}
	}
	return nil
}

// prepareParent makes dir and everything above it, and hands the controllers
// down to dir's children.
func (h *Host) prepareParent(dir string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.prepare(dir)
}

func (h *Host) prepare(dir string) error {
	if h.parents[dir] && h.stillThere(dir) {
		return nil
	}
	if dir != "/" {
		if err := h.prepare(path.Dir(dir)); err != nil {
			return err
		}
		for _, name := range h.v1Names {
			d := filepath.Join(h.v1[name], dir)
			if err := mkdir(d); err != nil {
				return err
			}
			if name == "cpuset" {
				if err := inheritCPUSet(d); err != nil {
					return err
				}
			}
		}
		if h.unified != "" {
			if err := mkdir(filepath.Join(h.unified, dir)); err != nil {
				return err
			}
		}
	}
	if h.unified != "" && len(h.v2) > 0 {
		if err := h.delegate(filepath.Join(h.unified, dir)); err != nil {
			return err
		}
	}
	h.parents[dir] = true
	return nil
}

// stillThere guards the cache of parents against somebody who removed one.
func (h *Host) stillThere(dir string) bool {
	root := h.unified
	if root == "" {
		root = h.v1[h.v1Names[0]]
	}
	return exists(filepath.Join(root, dir))
}

// delegate enables every controller that dir has for dir's children. The kernel
// refuses that for a group that holds processes itself, other than the real
// root; there the remedy is the host's.
func (h *Host) delegate(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", dir, err)
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	on, err := os.ReadFile(control)
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", dir, err)
	}
	enabled := strings.Fields(string(on))
	for _, c := range strings.Fields(string(have)) {
		if slices.Contains(enabled, c) {
			continue
		}
		switch err := writeFile(control, "+"+c); {
		case err == nil, errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			// EINVAL: cpu with realtime processes outside the root; the rest still works.
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("cgroup %s holds processes of its own, so that its controllers cannot be used below it; "+
				"move them into a child or choose another cgroup parent: %w", dir, errdefs.ErrFailedPrecondition)
		default:
			return err
		}
	}
	return nil
}

// inheritCPUSet gives a version 1 cpuset its parent's CPUs and memory nodes
// (empty ones accept no process), and lets its children do so by themselves.
func inheritCPUSet(dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return fmt.Errorf("cgroup %s: %w", dir, err)
		}
		if strings.TrimSpace(string(own)) != "" {
			continue
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), f))
		if err != nil {
			return fmt.Errorf("cgroup %s: %w", dir, err)
		}
		if err := writeFile(filepath.Join(dir, f), string(parent)); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(dir, "cgroup.clone_children"), "1")
}

func mkdir(dir string) error {
	if err := unix.Mkdir(dir, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cgroup %s: %w", dir, err)
	}
	return nil
}

func exists(p string) bool { return unix.Access(p, unix.F_OK) == nil }

// writeFile writes a control file in one write. A file that does not exist is
// fs.ErrNotExist, so that callers can tell a kernel without it.
func writeFile(p, value string) error {
	fd, err := retry(func() (int, error) { return unix.Open(p, unix.O_WRONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return &fs.PathError{Op: "open", Path: p, Err: err}
	}
	defer unix.Close(fd)
	if _, err = retry(func() (int, error) { return unix.Write(fd, []byte(value)) }); err != nil {
		return fmt.Errorf("cgroup: write %q to %s: %w", value, p, err)
	}
	return nil
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

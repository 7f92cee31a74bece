package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Group is one control group in all hierarchies. It holds no descriptors; any
// number of handles to one group may be in use.
type Group struct {
	host *Host
	path string
}

// Path is the group's path inside each hierarchy.
func (g *Group) Path() string { return g.path }

// V2 opens the group's version 2 directory, for CLONE_INTO_CGROUP. The caller
// closes it. It is nil where version 2 is not mounted.
func (g *Group) V2() (*os.File, error) {
	if g.host.unified == "" {
		return nil, nil
	}
	f, err := os.OpenFile(g.unified(), unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w (%w)", g.path, err, errdefs.ErrNotFound)
	}
	return f, nil
}

// TaskFiles are the version 1 files into each of which a thread that is to be in
// the group, and is the only thread of its process that matters, writes "0".
func (g *Group) TaskFiles() []string {
	files := make([]string, 0, len(g.host.v1Names))
	for _, n := range g.host.v1Names {
		files = append(files, filepath.Join(g.host.v1[n], g.path, "tasks"))
	}
	return files
}

func (g *Group) unified() string             { return filepath.Join(g.host.unified, g.path) }
func (g *Group) v1(controller string) string { return filepath.Join(g.host.v1[controller], g.path) }

// dirs are the group's directories, one per hierarchy.
func (g *Group) dirs() []string {
	dirs := make([]string, 0, len(g.host.v1Names)+1)
	for _, n := range g.host.v1Names {
		dirs = append(dirs, g.v1(n))
	}
	if g.host.unified != "" {
		dirs = append(dirs, g.unified())
	}
	return dirs
}

// Update changes limits; absent ones stay as they are. Device rules are
// replaced as a whole if there are any.
func (g *Group) Update(limits *specs.LinuxResources) ([]string, error) {
	return g.apply(limits, false)
}

func (g *Group) apply(limits *specs.LinuxResources, fresh bool) ([]string, error) {
	version := g.host.Version()
	list, warnings, err := settings(version, limits)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(list); i++ {
		s := &list[i]
		err := g.write(s)
		if err != nil && s.pair != "" && i+1 < len(list) && list[i+1].pair == s.pair {
			// The kernel wants the other one of the pair first.
			if err = g.write(&list[i+1]); err == nil {
				err = g.write(s)
			}
			i++
		}
		switch {
		case err == nil:
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EOPNOTSUPP):
			warnings = append(warnings, fmt.Sprintf("%s was ignored: this host has no %s", s.what, s.file))
		default:
			return warnings, g.explain(s, err)
		}
	}
	if limits != nil && len(limits.Devices) > 0 {
		if err := g.devices(limits.Devices, fresh); err != nil {
			return warnings, err
		}
	}
	return warnings, nil
}

func (g *Group) write(s *setting) error {
	dir := g.unified()
	if s.controller != "" {
		if g.host.v1[s.controller] == "" {
			return fs.ErrNotExist
		}
		dir = g.v1(s.controller)
	}
	err := writeFile(filepath.Join(dir, s.file), s.value)
	if s.next != nil && errors.Is(err, fs.ErrNotExist) {
		return g.write(s.next)
	}
	return err
}

// explain gives a refused limit its kind, and Docker's words where it has some.
func (g *Group) explain(s *setting, err error) error {
	switch {
	case errors.Is(err, unix.EINVAL) && s.file == "memory.limit_in_bytes":
		return fmt.Errorf("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time: %w", errdefs.ErrInvalidArgument) //nolint:staticcheck // Docker's words
	case errors.Is(err, unix.EBUSY) && s.pair == "memory":
		return fmt.Errorf("unable to set %s to %s: more than that is in use: %w", s.what, s.value, errdefs.ErrFailedPrecondition)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EBUSY):
		return fmt.Errorf("unable to set %s: %w (%w)", s.what, err, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("unable to set %s: %w", s.what, err)
}

// Pids lists the processes in the group and the groups below it.
func (g *Group) Pids() ([]int, error) {
	root := g.unified()
	if g.host.unified == "" || g.host.Version() == 1 {
		root = g.v1(g.host.v1Names[0])
		if g.host.v1["pids"] != "" {
			root = g.v1("pids")
		}
	}
	set := map[int]struct{}{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		b, err := os.ReadFile(filepath.Join(p, "cgroup.procs"))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
				return nil
			}
			return err
		}
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				set[pid] = struct{}{}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", g.path, err)
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// freezer tells which file freezes the group, what to write there, and in which
// file which line says that all of it is frozen.
func (g *Group) freezer() (file, on, off, state, frozen string, err error) {
	if g.host.unified != "" {
		if f := filepath.Join(g.unified(), "cgroup.freeze"); exists(f) {
			return f, "1", "0", filepath.Join(g.unified(), "cgroup.events"), "frozen 1", nil
		}
	}
	if g.host.v1["freezer"] != "" {
		f := filepath.Join(g.v1("freezer"), "freezer.state")
		return f, "FROZEN", "THAWED", f, "FROZEN", nil
	}
	return "", "", "", "", "", fmt.Errorf("this host has no freezer control group: %w", errdefs.ErrNotImplemented)
}

// Freeze stops every process of the group and returns once all have stopped.
func (g *Group) Freeze(ctx context.Context) error {
	file, on, off, state, frozen, err := g.freezer()
	if err != nil {
		return err
	}
	if err := writeFile(file, on); err != nil {
		return err
	}
	err = poll(ctx, 10*time.Second, func() (bool, error) {
		b, err := os.ReadFile(state)
		return slices.Contains(strings.Split(string(b), "\n"), frozen), err
	})
	if err != nil {
		return errors.Join(fmt.Errorf("freeze cgroup %s: %w", g.path, err), writeFile(file, off))
	}
	return nil
}

// Thaw lets a frozen group run again. It is no error if it was not frozen.
func (g *Group) Thaw() error {
	file, _, off, _, _, err := g.freezer()
	if err != nil {
		return err
	}
	return writeFile(file, off)
}

// Frozen tells whether Freeze was called last.
func (g *Group) Frozen() bool {
	file, on, _, _, _, err := g.freezer()
	if err != nil {
		return false
	}
	b, err := os.ReadFile(file)
	return err == nil && strings.HasPrefix(strings.TrimSpace(string(b)), on[:1]) && strings.TrimSpace(string(b)) != "THAWED"
}

// Kill sends SIGKILL to all processes of the group, frozen or not. They may take
// a moment to be gone. It is no error if the group is gone.
func (g *Group) Kill(ctx context.Context) error {
	if g.host.unified != "" {
		err := writeFile(filepath.Join(g.unified(), "cgroup.kill"), "1")
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		if !exists(g.unified()) {
			return nil
		}
	}
	// Without cgroup.kill: frozen, so that nobody can fork away meanwhile.
	if err := g.Freeze(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) && !errdefs.IsNotImplemented(err) {
		return err
	}
	pids, err := g.Pids()
	for _, pid := range pids {
		if e := unix.Kill(pid, unix.SIGKILL); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("kill %d: %w", pid, e))
		}
	}
	if e := g.Thaw(); e != nil && !errors.Is(e, fs.ErrNotExist) && !errdefs.IsNotImplemented(e) {
		err = errors.Join(err, e)
	}
	return err
}

// Delete removes the group and the groups below it. It waits while processes
// that were killed are leaving, 10 s at the most, then fails with
// FailedPrecondition. It is no error if the group is gone.
func (g *Group) Delete(ctx context.Context) error {
	var last error
	err := poll(ctx, 10*time.Second, func() (bool, error) {
		last = g.remove()
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errors.Join(err, last), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// remove tries once.
func (g *Group) remove() error {
	var errs []error
	for _, d := range g.dirs() {
		if err := rmdirTree(d); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// rmdirTree removes a directory of the cgroup filesystem; only if that is
// refused does it look for what the container made below.
func rmdirTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, rerr := os.ReadDir(dir)
	if rerr != nil {
		if errors.Is(rerr, fs.ErrNotExist) {
			return nil
		}
		return rerr
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := rmdirTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// poll calls f, with growing pauses up to 50 ms, until it is satisfied.
func poll(ctx context.Context, limit time.Duration, f func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for pause := 200 * time.Microsecond; ; pause = min(2*pause, 50*time.Millisecond) {
		ok, err := f()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

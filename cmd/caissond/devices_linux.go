package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/spec"
)

// devices finds device nodes on this host.
type devices struct{}

// maxDevices bounds a directory of devices: what a client names may be any directory.
const maxDevices = 4096

// hostOnly are entries of /dev that every container has of its own.
var hostOnly = map[string]bool{
	"/dev/pts": true, "/dev/shm": true, "/dev/fd": true, "/dev/mqueue": true, "/dev/console": true,
}

// Resolve is spec.Devices.
func (devices) Resolve(path, inContainer string) ([]spec.Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		var kind error = errdefs.ErrInvalidArgument
		if errors.Is(err, fs.ErrNotExist) {
			kind = errdefs.ErrNotFound
		}
		return nil, fmt.Errorf("error gathering device information while adding custom device %q: %w: %w", path, err, kind)
	}
	if d, ok := device(inContainer, &st); ok {
		return []spec.Device{d}, nil
	}
	var found []spec.Device
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		var err error
		if found, err = walk(path, inContainer); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("error gathering device information while adding custom device %q: not a device node: %w", path, errdefs.ErrInvalidArgument)
	}
	return found, nil
}

// All is spec.Devices.
func (devices) All() ([]spec.Device, error) { return walk("/dev", "/dev") }

// walk lists the device nodes below root, following no link.
func walk(root, inContainer string) ([]spec.Device, error) {
	var out []spec.Device
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil && path == root:
			return fmt.Errorf("listing devices: %w", err)
		case err != nil:
			return nil //nolint:nilerr // gone meanwhile, or not ours to see
		case hostOnly[path] && e.IsDir():
			return fs.SkipDir
		case hostOnly[path] || e.Type()&fs.ModeDevice == 0:
			return nil
		case len(out) == maxDevices:
			return fmt.Errorf("%s has more than %d devices: %w", root, maxDevices, errdefs.ErrInvalidArgument)
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d, ok := device(filepath.Join(inContainer, rel), &st); ok {
			out = append(out, d)
		}
		return nil
	})
	return out, err
}

// device describes a node; false if it is none.
func device(path string, st *unix.Stat_t) (spec.Device, bool) {
	kinds := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}
	kind, ok := kinds[st.Mode&unix.S_IFMT]
	return spec.Device{
		Path:  path,
		Type:  kind,
		Major: int64(unix.Major(uint64(st.Rdev))), //nolint:unconvert // the type differs by architecture
		Minor: int64(unix.Minor(uint64(st.Rdev))), //nolint:unconvert
		Mode:  st.Mode &^ unix.S_IFMT,
		UID:   st.Uid,
		GID:   st.Gid,
	}, ok
}

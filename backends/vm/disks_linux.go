package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/vmshim/blockimage"
)

// diskFile is a container's writable disk, in its state directory.
const diskFile = "vm.disk"

// disks are a container's, opened for its machine.
type disks struct {
	image   *os.File
	release func()
	scratch *os.File
}

func (d *disks) close() {
	if d == nil {
		return
	}
	for _, f := range []*os.File{d.image, d.scratch} {
		if f != nil {
			_ = f.Close()
		}
	}
	if d.release != nil {
		d.release()
	}
}

// insert puts them into a machine.
func (d *disks) insert(m *machine) error {
	for slot, f := range []*os.File{slotImage: d.image, slotScratch: d.scratch} {
		if err := m.ctl.SetDisk(slot, f); err != nil {
			return err
		}
	}
	return nil
}

// openDisks makes what is not there yet and opens all.
func (b *Backend) openDisks(ctx context.Context, stateDir string, rootfs []*backendpb.Mount) (_ *disks, err error) {
	d := &disks{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	lower, err := lowerDirs(rootfs)
	if err != nil {
		return nil, err
	}
	chain, err := chainOf(lower)
	if err != nil {
		return nil, err
	}
	if d.image, d.release, err = b.images.Image(ctx, lower, chain); err != nil {
		return nil, fmt.Errorf("image for a virtual machine: %w", err)
	}
	if stateDir == "" {
		return nil, fmt.Errorf("a container in a virtual machine needs a state directory: %w", errdefs.ErrInvalidArgument)
	}
	if d.scratch, err = b.openDisk(ctx, filepath.Join(stateDir, diskFile)); err != nil {
		return nil, err
	}
	return d, nil
}

// largestDisk is the size of the largest writable disk that a container has or will
// get: no disk grows over it, whatever becomes of the monitor.
func (b *Backend) largestDisk(stateDir string) int64 {
	largest := b.cfg.Options.Disk
	if st, err := os.Stat(filepath.Join(stateDir, diskFile)); err == nil {
		largest = max(largest, st.Size())
	}
	return largest
}

// openDisk opens a writable disk, made if it is not there, for one machine alone:
// two kernels on one filesystem would destroy it. The lock is the open file's and
// goes to the machine with it. A machine that is being ended writes its disk back
// first, which is waited for.
func (b *Backend) openDisk(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = b.images.Scratch(ctx, path, b.cfg.Options.Disk)
	}
	if err != nil {
		return nil, fmt.Errorf("writable disk: %w", err)
	}
	for end := time.Now().Add(closeTimeout); ; time.Sleep(5 * time.Millisecond) {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is in use by another virtual machine: %w", path, errdefs.ErrFailedPrecondition)
	}
	return f, nil
}

// lowerDirs are the layers of a root filesystem, uppermost first.
func lowerDirs(rootfs []*backendpb.Mount) ([]string, error) {
	if len(rootfs) != 1 || rootfs[0].GetTarget() != "" && rootfs[0].GetTarget() != "/" {
		return nil, fmt.Errorf("a virtual machine's root is made of one overlay or directory: %w", errdefs.ErrInvalidArgument)
	}
	m := rootfs[0]
	switch m.GetType() {
	case "bind":
		return []string{m.GetSource()}, nil
	case "overlay":
		for _, o := range m.GetOptions() {
			if list, ok := strings.CutPrefix(o, "lowerdir="); ok {
				return strings.Split(list, ":"), nil
			}
		}
	}
	return nil, fmt.Errorf("a virtual machine's root cannot be made of a mount of type %q: %w", m.GetType(), errdefs.ErrInvalidArgument)
}

// chainOf names what layers hold: unpacked layers never change, and a directory
// that was made anew has another number or time.
func chainOf(dirs []string) (string, error) {
	h := sha256.New()
	for _, dir := range dirs {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return "", &fs.PathError{Op: "stat", Path: dir, Err: err}
		}
		fmt.Fprintf(h, "%s\x00%d\x00%d\x00%d.%d\x00", dir, st.Dev, st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func openImages(cfg Config) (*blockimage.Store, error) {
	return blockimage.Open(blockimage.Options{Dir: filepath.Join(cfg.ImageDir, "images"), Log: cfg.Log})
}

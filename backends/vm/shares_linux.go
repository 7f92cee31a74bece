package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/platform_linux/mount"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
	"github.com/caisson-engine/caisson/vmshim/host"
)

// shared is a directory or file of this host that a container has: volumes, and what
// is bound from host paths. Its machine's file server serves it (package share).
type shared struct {
	ID        uint32 `json:"id"`
	Source    string `json:"source"`
	File      bool   `json:"file,omitempty"` // no directory
	ReadOnly  bool   `json:"read_only,omitempty"`
	Recursive bool   `json:"recursive,omitempty"` // with what is mounted below it
}

// sharesFile is what a container shares, in its directory.
const sharesFile = "shares"

// shares are what one container or visit has of this host.
type shares struct {
	container string
	next      func() uint32 // numbers that no other share of the machine has
	list      []shared
}

// add returns where in the guest the share can be bound from.
func (s *shares) add(source string, readOnly, recursive bool) (string, error) {
	fi, err := os.Stat(source)
	if err != nil {
		return "", err
	}
	if !fi.IsDir() && !fi.Mode().IsRegular() {
		return "", fmt.Errorf("it is a %s, which works on this host alone", kindOf(fi.Mode()))
	}
	sh := shared{Source: source, File: !fi.IsDir(), ReadOnly: readOnly, Recursive: recursive}
	if i := slices.IndexFunc(s.list, func(o shared) bool { sh.ID = o.ID; return o == sh }); i < 0 {
		sh.ID = s.next()
		s.list = append(s.list, sh)
	}
	return guestpb.SharePath(s.container, sh.ID), nil
}

func kindOf(m os.FileMode) string {
	switch {
	case m&os.ModeSocket != 0:
		return "socket"
	case m&os.ModeNamedPipe != 0:
		return "FIFO"
	}
	return "device"
}

// writable tells whether the guest may have something to write back.
func (s *shares) writable() bool {
	return slices.ContainsFunc(s.list, func(sh shared) bool { return !sh.ReadOnly })
}

// prepare is what the guest is told.
func (s *shares) prepare() (list []*guestpb.Share) {
	for _, sh := range s.list {
		list = append(list, &guestpb.Share{Id: sh.ID, File: sh.File, ReadOnly: sh.ReadOnly})
	}
	return list
}

// inside are mounts of this host's directories in the words of the guest that has
// them as a container's shares.
func inside(mounts []*backendpb.Mount, container string, list []shared) (out []*backendpb.Mount) {
	for _, m := range mounts {
		readOnly := slices.Contains(m.GetOptions(), "ro")
		i := slices.IndexFunc(list, func(sh shared) bool { return sh.Source == m.GetSource() && sh.ReadOnly == readOnly })
		if i >= 0 {
			out = append(out, &backendpb.Mount{Type: "bind", Source: guestpb.SharePath(container, list[i].ID), Target: m.GetTarget(), Options: m.GetOptions()})
		}
	}
	return out
}

// keepShares remembers what a container shares, over restarts of this process too.
func (c *container) keepShares(list []shared) error {
	if c.shares = list; len(list) == 0 {
		return nil
	}
	b, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.dir, sharesFile), b, 0o600)
}

// recoverShares finds them again.
func (c *container) recoverShares() error {
	b, err := os.ReadFile(filepath.Join(c.dir, sharesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &c.shares)
	}
	return err
}

// open makes a mount of its own, attached nowhere: a share is read-only, and without
// devices, whatever becomes of who serves it.
func (sh shared) open() (*os.File, error) {
	o := &mount.Options{
		Recursive: sh.Recursive, Propagation: unix.MS_PRIVATE | unix.MS_REC,
		RecSet: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
	}
	if sh.ReadOnly {
		o.RecSet |= unix.MOUNT_ATTR_RDONLY
	}
	fd, err := mount.Tree(unix.AT_FDCWD, sh.Source, o)
	if err != nil {
		return nil, fmt.Errorf("share %s with a virtual machine: %w: %w", sh.Source, err, errdefs.ErrInvalidArgument)
	}
	return os.NewFile(uintptr(fd), sh.Source), nil
}

// serve has a machine's file server serve shares; it is started with the first.
func (m *machine) serve(list []shared) error {
	for _, sh := range list {
		f, err := sh.open()
		if err != nil {
			return err
		}
		if m.files == nil {
			err = m.startFiles()
		}
		if err == nil {
			err = m.files.Share(sh.ID, f)
		}
		_ = f.Close()
		if err != nil {
			return m.failed("share "+sh.Source+" with a virtual machine", err)
		}
	}
	return nil
}

// startFiles starts the machine's file server. It ends with the machine.
func (m *machine) startFiles() error {
	port, err := m.ctl.Port(guestpb.SharePort)
	if err != nil {
		return err
	}
	defer port.Close()
	ctl, theirs, err := host.NewControl()
	if err != nil {
		return err
	}
	defer theirs.Close()
	m.files = ctl
	cmd := exec.CommandContext(context.Background(), m.b.cfg.ShimPath, host.FilesStage, m.dir) // it outlives every call
	cmd.Env = []string{"GOMAXPROCS=2"}
	cmd.ExtraFiles = []*os.File{theirs, port}
	for _, path := range m.group.TaskFiles() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.Args = append(cmd.Args, strconv.Itoa(host.FilesControlFD+len(cmd.ExtraFiles)))
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stderr = log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Cloneflags: host.FilesNamespaces}
	v2, err := m.group.V2()
	if err != nil {
		return err
	}
	if v2 != nil {
		defer v2.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(v2.Fd())
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", m.b.cfg.ShimPath, err)
	}
	go func() { _ = cmd.Wait() }() // without it the guest ends, and says so
	return nil
}

package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/caisson-engine/caisson/backends/linux"
	"github.com/caisson-engine/caisson/engine/backend/backendrpc"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
)

// Main is all that PID 1 does. It returns only when the machine is of no use any
// more, with the reason; the caller ends the machine.
func Main(version string) error {
	if os.Getpid() != 1 {
		return errors.New("caisson-guest is the first process of a virtual machine, not a command")
	}
	if err := makeWorld(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	inner, err := linux.Open(context.Background(), linux.Config{
		StateDir: stateDir, CgroupParent: "/caisson", Version: version,
		InitPath: "/bin/caisson-init", KeeperPath: "/bin/caisson-keeper", Log: log,
		PatientReaders: true,
	})
	if err != nil {
		return err
	}
	port, err := openPort(guestpb.Port)
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	s := grpc.NewServer(append(backendrpc.ServerOptions(), grpc.ConnectionTimeout(365*24*time.Hour))...)
	backendrpc.Register(s, inner)
	a := &agent{version: version, containers: inner, server: s, shares: newShares(ended), prepared: map[string]bool{}}
	guestpb.RegisterGuestServer(s, a)
	if toPractise() {
		if _, err := a.Warm(context.Background(), nil); err != nil {
			return fmt.Errorf("practice: %w", err)
		}
		// Its garbage need not be collected by every clone. The memory stays the heap's:
		// it would be asked for again at once.
		runtime.GC()
	}
	l := newOnce(port)
	if _, err := port.Write([]byte(guestpb.Greeting)); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	go func() {
		// A server says how much it takes before it is asked anything. If this machine
		// becomes a template, its clones' hosts have not heard it, and send less than
		// the server waits for: whoever speaks first must be the host.
		if err := port.await(); err != nil {
			ended <- err
			return
		}
		ended <- s.Serve(l)
	}()
	return <-ended
}

const stateDir = "/run/caisson/backend"

// fsMount is one of the filesystems that the agent and containers need.
type fsMount struct {
	target, fstype, data string
	flags                uintptr
	optional             bool
}

var world = []fsMount{
	{"/proc", "proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, false},
	{"/sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, false},
	{"/dev", "devtmpfs", "mode=0755", unix.MS_NOSUID, false},
	{"/dev/pts", "devpts", "ptmxmode=0666,mode=0620,gid=5", unix.MS_NOSUID | unix.MS_NOEXEC, false},
	{"/dev/shm", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV, false},
	{"/dev/mqueue", "mqueue", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, true},
	{"/run", "tmpfs", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV, false},
	{"/tmp", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV, false},
	{"/sys/fs/cgroup", "cgroup2", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, false},
}

// makeWorld mounts what there is, and loads the kernel's modules where it has
// some.
func makeWorld() error {
	if err := leaveInitramfs(); err != nil {
		return err
	}
	for _, m := range world {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.data); err != nil && !m.optional {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(guestpb.BootIDFile, nil, 0o444); err != nil {
		return err
	}
	if err := loadModules("/lib/modules"); err != nil {
		return err
	}
	unix.Umask(0o022)
	dropDummy()
	if err := setSysctls(usualSysctls); err != nil {
		return err
	}
	return linkUp("lo")
}

// leaveInitramfs binds the root onto itself: the root that the kernel makes
// cannot be pivoted away from, a mount on top of it can.
func leaveInitramfs() error {
	const staging = "/run"
	if err := os.MkdirAll(staging, 0o755); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return unix.Mount("/", staging, "", unix.MS_BIND, "") },
		func() error { return unix.Chdir(staging) },
		func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") },
		func() error { return unix.Chroot(".") },
		func() error { return unix.Chdir("/") },
		func() error { return unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "") },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("root directory: %w", err)
		}
	}
	return nil
}

// loadModules loads what dir/load lists, in that order. A kernel that has all
// built in has no such file.
func loadModules(dir string) error {
	list, err := os.ReadFile(filepath.Join(dir, "load"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
	}
	return nil
}

package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/vmshim/guestpb"
	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// JailStage is the argument with which the command calls vmm.RunStage.
const JailStage = "__vmm-jail"

// stageOne is the argument that says that all rights are gone.
const stageOne = "__guarded"

// Main is caisson-vmshim; its argument is the machine's directory, for who looks at
// the list of processes. It must be called on the process's first thread, locked
// to it: the monitor lives as long as that thread.
func Main(args []string) error {
	if len(args) > 1 && args[1] == stageOne {
		return guarded()
	}
	if os.Geteuid() != 0 || len(args) != 2 {
		return errors.New("caisson-vmshim is started by caisson-backend-vm, not by hand")
	}
	c, err := readConfig()
	if err != nil {
		return err
	}
	control, err := openControl()
	if err != nil {
		return err
	}
	err = joinGroups(c)
	var l *vmm.Launched
	if err == nil {
		l, err = launch(c)
	}
	if err != nil {
		_ = control.reply(reply{Error: err.Error()}, nil)
		return err
	}
	if err := control.reply(reply{PID: l.PID}, nil); err != nil {
		return err
	}
	handed := l.Handover(nil)
	c.Handed = &handed
	if err := writeConfig(c); err != nil {
		return err
	}
	if err := l.KeepOnExec(); err != nil {
		return err
	}
	return dropAndExec(c, args[1])
}

func readConfig() (*Config, error) {
	f := inherited(ConfigFD, "config")
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c := &Config{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return c, nil
}

// writeConfig replaces the configuration, for stage 1.
func writeConfig(c *Config) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	f := inherited(ConfigFD, "config")
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return err
}

// joinGroups moves this thread into the machine's groups of cgroup version 1: it is
// the one that forks the monitor and goes on itself. To version 2 this process was
// born.
func joinGroups(c *Config) error {
	for _, fd := range c.Cgroups {
		f := inherited(fd, "tasks")
		_, err := f.WriteString("0")
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

// launch starts the monitor and closes what only it needs.
func launch(c *Config) (*vmm.Launched, error) {
	m, err := vmm.NewQEMU(qemuOptions(c))
	if err != nil {
		return nil, err
	}
	cfg := vmm.Config{Shape: c.Shape, Savable: c.Savable, Taps: make([]*os.File, c.Shape.NICs), Jail: vmm.Jail{UID: c.UID, GID: c.GID, FileSize: c.FileSize}}
	if c.Savable {
		cfg.Words = guestpb.PractiseWord
	}
	if c.Clone != nil {
		cfg.Template = &vmm.Template{Key: c.Clone.Key, Memory: inherited(c.Clone.Memory, "memory"), State: inherited(c.Clone.State, "state")}
		defer func() { _ = cfg.Template.Close() }()
	}
	return m.Launch(cfg)
}

func qemuOptions(c *Config) vmm.QEMUOptions {
	return vmm.QEMUOptions{Binary: c.QEMU, Stage: []string{"/proc/self/exe", JailStage}, Dir: c.Runtime, Known: c.Known}
}

// dropAndExec gives up everything and becomes stage 1.
func dropAndExec(c *Config, dir string) error {
	return become("caisson-vmshim", []string{stageOne, dir}, []step{
		{"namespaces", func() error {
			return unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
		}},
		{"private mounts", func() error { return unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "") }},
		{"an empty root", emptyRoot},
		{"the bounding set", func() error { return dropBounding() }},
		{"groups", func() error { return threadCall(unix.SYS_SETGROUPS, 0, 0, 0) }},
		{"the group", func() error {
			return threadCall(unix.SYS_SETRESGID, uintptr(c.GID), uintptr(c.GID), uintptr(c.GID))
		}},
		{"the user", func() error {
			return threadCall(unix.SYS_SETRESUID, uintptr(c.UID), uintptr(c.UID), uintptr(c.UID))
		}},
		{"no new privileges", func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }},
		{"descriptors", func() error { return keepOnExec(ConfigFD, ListenerFD, IODirFD, ControlFD, NetnsFD) }},
	})
}

// step is one right less.
type step struct {
	what string
	do   func() error
}

// become gives up rights and executes this program anew, under a name. It
// works on this thread alone, which is the one that goes on.
func become(name string, args []string, steps []step) error {
	self, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("giving up rights: %s: %w", s.what, err)
		}
	}
	argv, err := syscall.SlicePtrFromStrings(append([]string{name}, args...))
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings([]string{"GOMAXPROCS=2", "GOGC=50"})
	if err != nil {
		return err
	}
	none, err := unix.BytePtrFromString("")
	if err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(self), uintptr(unsafe.Pointer(none)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("executing without rights: %w", errno)
}

// threadCall changes this thread only, unlike package syscall's.
func threadCall(nr, a, b, c uintptr) error {
	if _, _, errno := unix.RawSyscall(nr, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// emptyRoot moves to a root without a single file. The file that is executed next
// is known by its descriptor.
func emptyRoot() error {
	const at = "/tmp"
	if err := unix.Mount("none", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k,mode=0555"); err != nil {
		return err
	}
	if err := unix.Chdir(at); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := unix.Mount("none", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k,mode=0555"); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// dropBounding takes away every capability but those kept.
func dropBounding(kept ...uintptr) error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(kept, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return nil
}

func keepOnExec(fds ...int) error {
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	return nil
}

package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// instructions are what the jail stage is told, by the process that started it.
type instructions struct {
	Root    string   `json:"root"`
	UID     int      `json:"uid"`
	GID     int      `json:"gid"`
	Cgroups []int    `json:"cgroups"` // descriptors
	Taps    []tapAt  `json:"taps"`
	Read    []int    `json:"read"`  // descriptors of files that the monitor opens again by /proc/self/fd
	Close   []int    `json:"close"` // descriptors that are the stage's alone
	KVM     bool     `json:"kvm"`
	Limits  []limit  `json:"limits"`
	Args    []string `json:"args"`
	Env     []string `json:"env"`
}

// tapAt is a tap to be made at a descriptor's number.
type tapAt struct {
	Name string `json:"name"`
	FD   int    `json:"fd"`
}

type limit struct {
	Resource int    `json:"resource"`
	Max      uint64 `json:"max"`
}

// instructionsFD is where they are.
const instructionsFD = 3

// RunStage is the jail stage: what runs between Launch and the monitor, as pid 1
// of new namespaces and still as root. A program that calls Launch starts itself
// with QEMUOptions.Stage and calls RunStage first of all then. It does not return.
func RunStage() {
	// Credentials, filters and the exec are this thread's.
	runtime.LockOSThread()
	err := enterJail()
	fmt.Fprintf(os.Stderr, "jail: %v\n", err)
	os.Exit(1)
}

// enterJail is the jail, step by step. The order matters: first what needs the
// host's paths, then what needs rights, then their loss.
func enterJail() error {
	data, err := io.ReadAll(os.NewFile(instructionsFD, "instructions"))
	if err != nil {
		return err
	}
	var in instructions
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("instructions: %w", err)
	}
	if in.UID <= 0 || in.GID <= 0 {
		return errors.New("a monitor never runs as root")
	}
	steps := []struct {
		name string
		do   func(*instructions) error
	}{
		{"cgroup", joinCgroups},
		{"taps", makeTaps},
		{"names", setNames},
		{"root", changeRoot},
		{"limits", setLimits},
		{"privileges", dropPrivileges},
		{"landlock", restrictPaths},
		{"seccomp", installFilter},
	}
	for _, step := range steps {
		if err := step.do(&in); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	// What was not handed on explicitly ends here.
	for _, fd := range in.Close {
		unix.CloseOnExec(fd)
	}
	unix.CloseOnExec(instructionsFD)
	return fmt.Errorf("%s: %w", in.Args[0], syscall.Exec(inProgram, in.Args, in.Env))
}

// joinCgroups comes first, so that all memory from here on is accounted.
func joinCgroups(in *instructions) error {
	for _, fd := range in.Cgroups {
		if _, err := unix.Write(fd, []byte("0\n")); err != nil {
			return err
		}
	}
	return nil
}

// makeTaps makes the interfaces that the caller did not bring, in this process's
// own empty network namespace.
func makeTaps(in *instructions) error {
	for _, tap := range in.Taps {
		fd, err := openTap(tap.Name)
		if err != nil {
			return err
		}
		if err := unix.Dup3(fd, tap.FD, 0); err != nil {
			return err
		}
		unix.Close(fd)
	}
	return nil
}

// openTap makes a tap device in the caller's network namespace.
func openTap(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	// The header carries checksums and segments to offload; a guest that negotiated
	// them in a template must find them in every clone.
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("tap %s: %w", name, err)
	}
	return fd, nil
}

// setNames hides the host's.
func setNames(*instructions) error {
	return errors.Join(unix.Sethostname([]byte("vmm")), unix.Setdomainname([]byte("(none)")))
}

// changeRoot leaves the monitor's own files, read-only, and a procfs that shows
// nothing but the monitor: it reaches its memory and kernel by /proc/self/fd.
func changeRoot(in *instructions) error {
	const locked = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount(in.Root, in.Root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("%s: %w", in.Root, err)
	}
	proc := filepath.Join(in.Root, "proc")
	if err := unix.Mount("proc", proc, "proc", locked|unix.MS_NOEXEC, "subset=pid"); err != nil {
		return fmt.Errorf("procfs: %w", err)
	}
	if err := unix.Mount("", proc, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|locked|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("procfs: %w", err)
	}
	if in.KVM {
		if err := mountKVM(filepath.Join(in.Root, "dev")); err != nil {
			return fmt.Errorf("/dev/kvm: %w", err)
		}
	}
	if err := unix.Mount("", in.Root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|locked, ""); err != nil {
		return err
	}
	if err := unix.Chdir(in.Root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// mountKVM puts a node of our own there: the host's may be for a group that the
// monitor is not in.
func mountKVM(dev string) error {
	var st unix.Stat_t
	if err := unix.Stat("/dev/kvm", &st); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", dev, "tmpfs", flags, "size=4k,nr_inodes=4,mode=755"); err != nil {
		return err
	}
	node := filepath.Join(dev, "kvm")
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(st.Rdev)); err != nil {
		return err
	}
	if err := unix.Chmod(node, 0o666); err != nil {
		return err
	}
	return unix.Mount("", dev, "", unix.MS_REMOUNT|unix.MS_RDONLY|flags, "size=4k,nr_inodes=4,mode=755")
}

func setLimits(in *instructions) error {
	for _, l := range in.Limits {
		if err := unix.Setrlimit(l.Resource, &unix.Rlimit{Cur: l.Max, Max: l.Max}); err != nil {
			return fmt.Errorf("limit %d: %w", l.Resource, err)
		}
	}
	return nil
}

// dropPrivileges is for this thread, which executes the monitor.
func dropPrivileges(in *instructions) error {
	for c := uintptr(0); ; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			break
		} else if err != nil {
			return err
		}
	}
	// Locked: uid 0, should it ever be reached, has no rights by being 0.
	const secure = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<7
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secure, 0, 0, 0); err != nil {
		return fmt.Errorf("securebits: %w", err)
	}
	raw := func(nr, a, b, c uintptr) error {
		if _, _, e := unix.RawSyscall(nr, a, b, c); e != 0 {
			return e
		}
		return nil
	}
	uid, gid := uintptr(in.UID), uintptr(in.GID)
	if err := raw(unix.SYS_SETGROUPS, 0, 0, 0); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := raw(unix.SYS_SETRESGID, gid, gid, gid); err != nil {
		return fmt.Errorf("setresgid: %w", err)
	}
	if err := raw(unix.SYS_SETRESUID, uid, uid, uid); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := raw(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	// After the change of uid, which clears it.
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

// readable says whether a monitor's own uid can open file again, which is what
// happens with the kernel and the initramfs.
func readable(file *os.File) error {
	st, err := file.Stat()
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o004 == 0 {
		return fmt.Errorf("%s is not readable for others (%v): the monitor runs with a uid of its own", file.Name(), st.Mode())
	}
	return nil
}

// fdPath is how the monitor names an inherited descriptor.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// oneLine makes text that others wrote fit for a message.
func oneLine(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

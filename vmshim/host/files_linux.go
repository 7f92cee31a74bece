package host

import (
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/vmshim/share"
	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// FilesStage is the argument with which the command calls ServeFiles.
const FilesStage = "__files"

// filesGuarded is the argument that says that its rights are gone.
const filesGuarded = "__files-guarded"

// The file server of a machine is a process of its own, since it needs what the shim
// must not have: to act as root on files. It has nothing else. It is started as root
// in new namespaces of mounts, processes, network, names and messages (see
// FilesNamespaces), and
//
//	stage 0:  makes a mount of its own /proc/self/fd its working directory, leaves
//	          the host's files for an empty root, keeps six capabilities and
//	          executes itself as
//	stage 1:  gets the shares by descriptor, each a detached mount (nosuid, nodev,
//	          read-only if asked), and answers the guest
//
// It ends with the machine's port, and so with the machine.

// Descriptors that a file server is started with.
const (
	FilesControlFD = 3 // a seqpacket socket: see control.go
	FilesPortFD    = 4 // of the machine, to the guest
	FilesFirstFD   = 5 // tasks files of cgroup version 1
)

// FilesNamespaces are a file server's own.
const FilesNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// fileCapabilities are what it takes to make, change and give away files as root of a
// container can.
var fileCapabilities = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID,
	unix.CAP_SETUID, unix.CAP_SETGID, // of the file system alone: see share
}

const (
	// fileDescriptors bounds what the guest can have opened and remember.
	fileDescriptors = 64 << 10
	// SECBIT_NO_SETUID_FIXUP and its lock of <linux/securebits.h>.
	secbitNoSetuidFixup = 1<<2 | 1<<3
)

// ServeFiles is the file server of one machine. Its arguments are FilesStage, the
// machine's directory, for who looks at the list of processes, and the descriptors of
// tasks files.
func ServeFiles(args []string) error {
	if args[1] == filesGuarded {
		return serveShares()
	}
	if os.Geteuid() != 0 || os.Getpid() != 1 || len(args) < 3 {
		return errors.New("a file server is started by caisson-backend-vm, not by hand")
	}
	groups := &Config{}
	for _, fd := range args[3:] {
		n, err := strconv.Atoi(fd)
		if err != nil {
			return err
		}
		groups.Cgroups = append(groups.Cgroups, n)
	}
	if err := joinGroups(groups); err != nil {
		return err
	}
	for r, most := range map[int]uint64{unix.RLIMIT_NOFILE: fileDescriptors, unix.RLIMIT_CORE: 0, unix.RLIMIT_MEMLOCK: 0} {
		var l unix.Rlimit
		if err := unix.Getrlimit(r, &l); err != nil {
			return fmt.Errorf("limits: %w", err)
		}
		l.Max = min(l.Max, most)
		l.Cur = l.Max
		if err := unix.Setrlimit(r, &l); err != nil {
			return fmt.Errorf("limits: %w", err)
		}
	}
	fds := -1
	return become("caisson-vmfiles", []string{filesGuarded, args[2]}, []step{
		{"private mounts", func() error { return unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "") }},
		{"own processes", func() (err error) {
			const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
			if err := unix.Mount("proc", "/proc", "proc", flags, ""); err != nil {
				return err
			}
			fds, err = unix.OpenTree(unix.AT_FDCWD, "/proc/self/fd", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			return err
		}},
		{"an empty root", emptyRoot},
		{"the working directory", func() error { return unix.Fchdir(fds) }},
		{"the file mode mask", func() error { unix.Umask(0); return nil }},
		{"groups", func() error { return threadCall(unix.SYS_SETGROUPS, 0, 0, 0) }},
		{"secure bits", func() error { return unix.Prctl(unix.PR_SET_SECUREBITS, secbitNoSetuidFixup, 0, 0, 0) }},
		{"the bounding set", func() error { return dropBounding(fileCapabilities...) }},
		{"no new privileges", func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }},
		{"descriptors", func() error {
			if err := unix.CloseRange(FilesControlFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
				return err
			}
			return keepOnExec(FilesControlFD, FilesPortFD)
		}},
	})
}

// serveShares is stage 1.
func serveShares() error {
	log.SetOutput(io.Discard) // of libraries, about what a guest sends
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	for _, fd := range []int{FilesControlFD, FilesPortFD} {
		unix.CloseOnExec(fd)
	}
	ctl, err := net.FileConn(inherited(FilesControlFD, "control"))
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	port, err := net.FileConn(inherited(FilesPortFD, "port"))
	if err != nil {
		return fmt.Errorf("port: %w", err)
	}
	if err := vmm.Guard(); err != nil {
		return fmt.Errorf("system call filter: %w", err)
	}
	s := share.NewServer()
	go obeyFiles(&control{ctl.(*net.UnixConn)}, s)
	return s.Serve(port)
}

// obeyFiles takes shares until the backend is gone.
func obeyFiles(c *control, s *share.Server) {
	for {
		var r request
		files, err := c.receive(&r, 1)
		if err != nil {
			return
		}
		var answer reply
		if r.Op != "share" || len(files) != 1 {
			answer.Error = fmt.Sprintf("no such request: %q with %d files", r.Op, len(files))
		} else if fd, err := unix.FcntlInt(files[0].Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			answer.Error = err.Error()
		} else if err := s.Add(r.Share, fd); err != nil {
			answer.Error = err.Error()
		}
		closeAll(files)
		if c.reply(answer, nil) != nil {
			return
		}
	}
}

package plugin

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const needsTLS = false

// process is a running process, held so that its number cannot come to mean
// another one.
type process struct{ f *os.File }

// openProcess returns the running process with this number.
func openProcess(pid int) (*process, error) {
	// Non-blocking, so that the runtime's poller waits for it, not a thread.
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return &process{f: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// wait returns when the process has ended, or with an error once release was
// called.
func (p *process) wait() error {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	var polled error
	err = conn.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			polled = err
			return true
		}
		return n > 0
	})
	return errors.Join(polled, err)
}

func (p *process) kill() error {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := conn.Control(func(fd uintptr) {
		sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	}); err != nil {
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}

// release lets go of the process, which goes on.
func (p *process) release() { p.f.Close() }

// startTime tells a process from another that has the same number later, also
// after a reboot.
func startTime(pid int) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name, in parentheses, may hold anything; starttime is field 22, the
	// 20th after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has only %d fields", pid, len(fields)+2)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return "", fmt.Errorf("process %d has ended: %w", pid, os.ErrProcessDone)
	}
	return strings.TrimSpace(string(boot)) + "/" + fields[19], nil
}

// detach gives the plugin a session of its own: no signal of ours reaches it.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// surviveHost keeps a write to a pipe whose reader died with the engine from
// killing this process. Signals that are caught, unlike ignored ones, are back
// to their default in the programs that it starts.
func surviveHost() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// lockFile takes the lock on f, or fails at once if another process has it. The
// lock ends with the process.
func lockFile(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

package plugin

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

// needsTLS: go-plugin listens on loopback TCP here, where any user may connect.
const needsTLS = true

// process is a running process, held so that its number cannot come to mean
// another one.
type process struct{ p *os.Process }

// openProcess returns the running process with this number.
func openProcess(pid int) (*process, error) {
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	return &process{p: p}, nil
}

// wait returns when the process has ended. Any process that can be opened can
// be waited for here, not only a child.
func (p *process) wait() error {
	_, err := p.p.Wait()
	return err
}

func (p *process) kill() error { return p.p.Kill() }

// release lets go of the process, which goes on.
func (p *process) release() { _ = p.p.Release() }

// startTime tells a process from another that has the same number later.
func startTime(pid int) (string, error) {
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
	if err != nil {
		return "", err
	}
	defer windows.CloseHandle(h)
	var created, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(h, &created, &exited, &kernel, &user); err != nil {
		return "", err
	}
	return fmt.Sprint(created.Nanoseconds()), nil
}

// detach keeps console events meant for the engine away from the plugin.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		HideWindow:    true,
		CreationFlags: windows.CREATE_NEW_PROCESS_GROUP | windows.CREATE_NO_WINDOW,
	}
}

// surviveHost: a broken pipe is only an error here.
func surviveHost() {}

// lockFile takes the lock on f, or fails at once if another process has it. The
// lock ends with the process.
func lockFile(f *os.File) error {
	// The locked byte lies far behind the contents, which others must read.
	at := windows.Overlapped{OffsetHigh: 1}
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
}

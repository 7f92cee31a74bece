package plugin

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/go-plugin/runner"
)

// attached is a plugin process as go-plugin wants it, one that is not
// necessarily our child.
type attached struct {
	id   identity
	proc *process
	done chan struct{} // closed when the process has ended

	stdout *os.File // the handshake's pipe, nil if the process is not our child

	mu       sync.Mutex
	released chan struct{} // closed when we let go of it
}

var _ runner.AttachedRunner = (*attached)(nil)

// watch closes done as soon as the process has ended. It ends with the process
// or with release.
func (a *attached) watch() {
	if a.proc.wait() == nil {
		close(a.done)
	}
	a.release()
}

// release lets go of the process, which goes on. Idempotent.
func (a *attached) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	ch := a.letGo()
	select {
	case <-ch:
	default:
		close(ch)
		a.proc.release()
		if a.stdout != nil {
			a.stdout.Close()
		}
	}
}

// letGo returns released, making it first where nobody did. Call with mu held.
func (a *attached) letGo() chan struct{} {
	if a.released == nil {
		a.released = make(chan struct{})
	}
	return a.released
}

// Wait also returns when the process was released, so that go-plugin's
// goroutines end.
func (a *attached) Wait(context.Context) error {
	a.mu.Lock()
	released := a.letGo()
	a.mu.Unlock()
	select {
	case <-a.done:
	case <-released:
	}
	return nil
}

func (a *attached) Kill(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.letGo():
		return os.ErrProcessDone
	default:
		return a.proc.kill()
	}
}

func (a *attached) ID() string { return fmt.Sprint(a.id.PID) }

func (a *attached) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

func (a *attached) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// launched is a plugin process that we start.
type launched struct {
	attached
	path      string
	env       []string
	stateDir  string
	logOffset int64 // where its log begins
}

var _ runner.Runner = (*launched)(nil)

func (l *launched) Start(context.Context) error {
	log, err := openLog(filepath.Join(l.stateDir, logName))
	if err != nil {
		return err
	}
	defer log.Close()
	if fi, err := log.Stat(); err == nil {
		l.logOffset = fi.Size()
	}
	stdout, child, err := os.Pipe()
	if err != nil {
		return err
	}
	defer child.Close()
	// It outlives every context of ours.
	cmd := exec.CommandContext(context.Background(), l.path)
	cmd.Env = l.env
	cmd.Dir = l.stateDir
	cmd.Stdout = child
	cmd.Stderr = log
	detach(cmd)
	if err := cmd.Start(); err != nil {
		stdout.Close()
		return err
	}
	l.stdout = stdout
	l.done = make(chan struct{})
	// Our child cannot lose its number before we reap it.
	if l.proc, err = openProcess(cmd.Process.Pid); err == nil {
		l.id, err = identify(cmd.Process.Pid)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		stdout.Close()
		if l.proc != nil {
			l.proc.release()
		}
		return err
	}
	go l.watch()
	// Reaps it; how it ended says nothing that its log does not.
	go func() { _ = cmd.Wait() }()
	return nil
}

func (l *launched) Name() string          { return l.path }
func (l *launched) Stdout() io.ReadCloser { return l.stdout }

// Stderr is empty: it goes to the log file, so that it outlives us.
func (l *launched) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

func (l *launched) Diagnose(context.Context) string { return "" }

// openLog opens a backend's log for its next process, and puts it aside first
// if it has grown.
func openLog(path string) (*os.File, error) {
	if fi, err := os.Stat(path); err == nil && fi.Size() > logLimit/8 {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

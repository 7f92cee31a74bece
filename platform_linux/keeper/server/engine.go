//go:build linux

package server

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
)

// An engine that ends again within shortLife of its start waits longer before
// the next, from firstDelay doubling: up to aliveDelay if it came so far as to
// register, so that whoever was killed often is still back within a second, and
// up to maxDelay if it cannot even start.
const (
	shortLife  = 5 * time.Second
	firstDelay = 50 * time.Millisecond
	aliveDelay = 400 * time.Millisecond
	maxDelay   = 30 * time.Second
)

// engine is one that is started again when it ends.
type engine struct {
	spec    wire.Engine
	stderr  int
	pidfd   int // -1 between its end and its next start
	pid     int // if it is our child
	started time.Time
	startAt time.Time // of the next start; zero: none is due
	delay   time.Duration
	alive   bool // it registered since its last start
}

// register watches an engine, in place of what was registered for its
// directory.
func (s *server) register(m *wire.Engine, stderr, pidfd int) bool {
	if m.Dir == "" || len(m.Argv) == 0 {
		unix.Close(stderr)
		unix.Close(pidfd)
		return false
	}
	e := s.engines[m.Dir]
	if e == nil {
		e = &engine{pidfd: -1, stderr: -1, started: time.Now()}
		s.engines[m.Dir] = e
	}
	if e.stderr >= 0 {
		unix.Close(e.stderr)
	}
	e.spec, e.stderr, e.startAt, e.alive = *m, stderr, time.Time{}, true
	s.guard(e, pidfd)
	return true
}

// guard waits for the end of the engine behind pidfd.
func (s *server) guard(e *engine, pidfd int) {
	s.unguard(e)
	e.pidfd = pidfd
	s.guarded[pidfd] = e
	if s.watch(pidfd, unix.EPOLLIN|unix.EPOLLET) != nil {
		delete(s.guarded, pidfd)
	}
}

func (s *server) unguard(e *engine) {
	if e.pidfd < 0 {
		return
	}
	_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, e.pidfd, nil)
	delete(s.guarded, e.pidfd)
	unix.Close(e.pidfd)
	e.pidfd = -1
}

// unregister is an engine's goodbye.
func (s *server) unregister(dir string) {
	e := s.engines[dir]
	if e == nil {
		return
	}
	// If it is our child we are its only parent: it stays in guarded until it is
	// reaped, but in engines no more.
	delete(s.engines, dir)
	unix.Close(e.stderr)
	e.stderr = -1
	if e.pid == 0 {
		s.unguard(e)
	}
}

// engineEnded reaps an engine that was our child, and decides when to start it
// again.
func (s *server) engineEnded(e *engine) {
	if e.pid != 0 {
		pid, err := syscall.Wait4(e.pid, nil, syscall.WNOHANG, nil)
		if err == nil && pid == 0 {
			return
		}
		e.pid = 0
	}
	s.unguard(e)
	if s.engines[e.spec.Dir] != e {
		return // it had said goodbye
	}
	most := maxDelay
	if e.alive {
		most = aliveDelay
	}
	if time.Since(e.started) < shortLife {
		e.delay = min(max(2*e.delay, firstDelay), most)
	} else {
		e.delay = 0
	}
	e.startAt, e.alive = time.Now().Add(e.delay), false
}

// startEngines starts those whose time has come.
func (s *server) startEngines() {
	for dir, e := range s.engines {
		if e.startAt.IsZero() || time.Now().Before(e.startAt) {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil {
			s.unregister(dir) // uninstalled
			continue
		}
		e.startAt = time.Time{}
		e.started = time.Now()
		pidfd := -1
		pid, err := syscall.ForkExec(e.spec.Argv[0], e.spec.Argv, &syscall.ProcAttr{
			Dir: e.spec.Cwd, Env: e.spec.Env,
			Files: []uintptr{0, uintptr(e.stderr), uintptr(e.stderr)},
			Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
		})
		if err == nil && pidfd < 0 {
			pidfd, err = unix.PidfdOpen(pid, 0)
		}
		if err != nil {
			e.delay = min(max(2*e.delay, firstDelay), maxDelay)
			e.startAt = time.Now().Add(e.delay)
			continue
		}
		e.pid = pid
		s.guard(e, pidfd)
	}
}

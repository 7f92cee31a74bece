//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
)

// Runtime creates processes and holds them. Its methods are safe for
// concurrent use.
type Runtime struct {
	cfg  Config
	log  *slog.Logger
	root string // the empty directory that root filesystems are mounted on
	host hostCgroups

	ctx   context.Context // ends with Close
	close context.CancelFunc
	gone  chan struct{} // closed when the revival goroutine has ended

	mu     sync.Mutex
	link   *link
	linked chan struct{} // closed while link is usable; a new one while it is not
	procs  map[string]*Process
	files  map[string]map[string]int // duplicates of all that is held, by key and name
	// early are ends of processes that nobody knew when they were told: those of
	// the time before Recover; nil after it, or after the first Create.
	early   map[string]wire.Process
	filters filterCache
}

// Open connects to the keeper of cfg.Dir, or starts one. It does so again by
// itself, for as long as the Runtime is open, whenever the keeper dies.
func Open(ctx context.Context, cfg Config) (*Runtime, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, p := range []string{cfg.Dir, cfg.InitPath, cfg.KeeperPath} {
		if !filepath.IsAbs(p) {
			return nil, fmt.Errorf("path %q is not absolute: %w", p, errdefs.ErrInvalidArgument)
		}
	}
	r := &Runtime{
		cfg: cfg, log: cfg.Log, root: filepath.Join(cfg.Dir, "root"), gone: make(chan struct{}),
		linked: make(chan struct{}), procs: map[string]*Process{}, files: map[string]map[string]int{}, early: map[string]wire.Process{},
	}
	if err := os.MkdirAll(r.root, 0o700); err != nil {
		return nil, fmt.Errorf("make the runtime's directory: %w", err)
	}
	var err error
	if r.host, err = readHostCgroups(); err != nil {
		return nil, err
	}
	l, err := dial(ctx, cfg.Dir)
	if err != nil {
		if l, err = startKeeper(ctx, cfg); err != nil {
			return nil, err
		}
	}
	r.ctx, r.close = context.WithCancel(context.Background())
	r.use(l)
	go r.revive(l)
	return r, nil
}

// use makes l the connection that everybody uses.
func (r *Runtime) use(l *link) {
	r.mu.Lock()
	r.link = l
	close(r.linked)
	r.mu.Unlock()
	go r.read(l)
}

// read is a link's reader. When the link ends nobody gets it any more before
// those who wait for its answers hear of it, so that they wait for the next.
func (r *Runtime) read(l *link) {
	l.read(r.made, r.ended)
	r.mu.Lock()
	if r.link == l {
		r.link, r.linked = nil, make(chan struct{})
	}
	r.mu.Unlock()
	l.end()
}

// retryKeeper is how long to wait before another attempt to start a keeper that
// cannot be started.
const retryKeeper = 200 * time.Millisecond

// revive replaces the keeper whenever it dies, and hands everything over to the
// next one: first what is held, so that nothing is lost if it dies at once.
func (r *Runtime) revive(l *link) {
	defer close(r.gone)
	for {
		select {
		case <-r.ctx.Done():
			_ = l.conn.Close()
			<-l.down
			return
		case <-l.down:
		}
		if r.ctx.Err() != nil {
			return
		}
		r.log.Warn("the keeper ended; starting another", "pid", l.pid)
		for {
			next, err := startKeeper(r.ctx, r.cfg)
			if err != nil {
				// Perhaps somebody else's, or one that only dropped the connection.
				next, err = dial(r.ctx, r.cfg.Dir)
			}
			if err == nil {
				if err = r.handOver(next); err == nil {
					l = next
					break
				}
				_ = next.conn.Close()
			}
			r.log.Error("no keeper; trying again", "error", err)
			select {
			case <-r.ctx.Done():
				return
			case <-time.After(retryKeeper):
			}
		}
	}
}

// handOver gives a new keeper all processes and files, and then makes it ours.
func (r *Runtime) handOver(l *link) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.procs {
		p.mu.Lock()
		m := wire.Process{Key: p.key, PID: p.pid, Start: p.start}
		if p.over {
			m.Exited, m.Status, m.Unknown, m.At = true, p.status, p.exit.Unknown, p.exit.At.UnixNano()
		}
		err := errors.New("closed")
		if p.pidfd >= 0 {
			err = l.send(wire.KindAdopt, &m, p.pidfd)
		}
		p.mu.Unlock()
		if err != nil && p.pidfd >= 0 {
			return fmt.Errorf("hand over process %q: %w", p.key, err)
		}
	}
	for key, files := range r.files {
		for name, fd := range files {
			if err := l.sendFile(key, name, fd); err != nil {
				return fmt.Errorf("hand over file %q of %q: %w", name, key, err)
			}
		}
	}
	r.link = l
	close(r.linked)
	go r.read(l)
	return nil
}

func (l *link) sendFile(key, name string, fd int) error {
	return l.send(wire.KindHold, &wire.File{Key: key, Name: name}, fd)
}

// connected waits for a usable connection.
func (r *Runtime) connected(ctx context.Context) (*link, error) {
	for {
		r.mu.Lock()
		l, linked := r.link, r.linked
		r.mu.Unlock()
		if l != nil {
			return l, nil
		}
		select {
		case <-linked:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.ctx.Done():
			return nil, fmt.Errorf("the runtime was closed: %w", errdefs.ErrUnavailable)
		}
	}
}

// KeeperSocket is the path of the keeper's socket, for package keeper's Guard.
func (r *Runtime) KeeperSocket() string { return filepath.Join(r.cfg.Dir, "keeper.sock") }

// KeeperPID is the process id of the connected keeper, 0 while there is none.
func (r *Runtime) KeeperPID() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link == nil {
		return 0
	}
	return r.link.pid
}

// Close disconnects from the keeper. Everything held stays held. Processes of
// this Runtime can no longer be used, and their Done may never close.
func (r *Runtime) Close() error {
	r.close()
	<-r.gone
	r.mu.Lock()
	procs, files := r.procs, r.files
	r.procs, r.files = map[string]*Process{}, map[string]map[string]int{}
	r.mu.Unlock()
	for _, p := range procs {
		_ = p.Close()
	}
	for _, named := range files {
		for _, fd := range named {
			unix.Close(fd)
		}
	}
	return nil
}

// Hold lets the keeper keep a duplicate of f under key and name, until Drop.
// A file held before under the same names is replaced.
func (r *Runtime) Hold(key, name string, f *os.File) error {
	if !wire.ValidKey(key) || !wire.ValidKey(name) {
		return fmt.Errorf("key %q, name %q: only printable ASCII, at most %d bytes: %w", key, name, wire.MaxKey, errdefs.ErrInvalidArgument)
	}
	fd, err := unix.FcntlInt(uintptr(rawFD(f)), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("hold %q of %q: %w", name, key, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(key, name, fd)
	if r.link != nil {
		// An error means that the keeper is gone: the next is handed what is in files.
		_ = r.link.sendFile(key, name, fd)
	}
	return nil
}

// keep makes fd, which becomes the Runtime's, part of what is handed to the next
// keeper. r.mu is held.
func (r *Runtime) keep(key, name string, fd int) {
	named := r.files[key]
	if named == nil {
		named = map[string]int{}
		r.files[key] = named
	}
	if old, ok := named[name]; ok {
		unix.Close(old)
	}
	named[name] = fd
}

// Drop makes the keeper close the named files of key; without names all of
// them, and forget the process as well. Idempotent.
func (r *Runtime) Drop(key string, names ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(names) == 0 {
		for _, fd := range r.files[key] {
			unix.Close(fd)
		}
		delete(r.files, key)
		delete(r.procs, key)
	}
	for _, name := range names {
		if fd, ok := r.files[key][name]; ok {
			unix.Close(fd)
			delete(r.files[key], name)
		}
	}
	if r.link != nil {
		_ = r.link.send(wire.KindDrop, &wire.Drop{Key: key, Names: names})
	}
	return nil
}

// forget is Drop of everything of p, unless its key is another's by now.
func (r *Runtime) forget(p *Process) error {
	r.mu.Lock()
	other := r.procs[p.key] != p
	r.mu.Unlock()
	if other {
		return nil
	}
	return r.Drop(p.key)
}

// made is told by the link's reader of a process that the keeper made.
func (r *Runtime) made(key string, m wire.Spawned, pidfd int) *Process {
	p := newProcess(r, key, m.PID, m.Start, pidfd)
	r.mu.Lock()
	r.procs[key] = p
	r.mu.Unlock()
	return p
}

// ended is told by the link's reader of a process's end.
func (r *Runtime) ended(m wire.Process) {
	r.mu.Lock()
	p := r.procs[m.Key]
	if p == nil && r.early != nil {
		r.early[m.Key] = m
	}
	r.mu.Unlock()
	if p != nil && p.pid == m.PID && p.start == m.Start {
		p.finish(&m)
	}
}

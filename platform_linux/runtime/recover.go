//go:build linux

package runtime

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
)

// Recover tells what the keeper holds, for a backend that was restarted. Call
// it once, before the first Create.
func (r *Runtime) Recover(ctx context.Context) ([]Held, error) {
	l, err := r.connected(ctx)
	if err != nil {
		return nil, err
	}
	items, err := l.fetchAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the keeper what it holds: %w", err)
	}
	held := map[string]*Held{}
	for _, it := range items {
		key := ""
		if it.process != nil {
			key = it.process.Key
		} else {
			key = it.file.Key
		}
		h := held[key]
		if h == nil {
			h = &Held{Key: key, Files: map[string]*os.File{}}
			held[key] = h
		}
		if it.process != nil {
			h.Process = r.takeBack(it)
		}
	}
	for _, it := range items {
		if it.file != nil {
			if err := r.takeFile(held[it.file.Key], it); err != nil {
				return nil, err
			}
		}
	}
	r.mu.Lock()
	r.early = nil
	r.mu.Unlock()
	list := make([]Held, 0, len(held))
	for _, h := range held {
		list = append(list, *h)
	}
	return list, nil
}

// takeBack makes a fetched process ours again. If it ended between the keeper's
// answer and now, the message about it was for nobody: so it is looked up in
// procs by ended, under the lock that makes it visible.
func (r *Runtime) takeBack(it item) *Process {
	m := it.process
	p := newProcess(r, m.Key, m.PID, m.Start, it.fd)
	r.mu.Lock()
	defer r.mu.Unlock()
	if early, ok := r.early[m.Key]; ok && early.PID == m.PID && early.Start == m.Start {
		m = &early
	}
	r.procs[m.Key] = p
	if m.Exited {
		p.finish(m)
	}
	return p
}

// takeFile puts a fetched file where it belongs: into its Process if it is one
// that the Runtime itself gave, else into Files.
func (r *Runtime) takeFile(h *Held, it item) error {
	if it.fd < 0 {
		return nil
	}
	name := it.file.Name
	dup, err := unix.FcntlInt(uintptr(it.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		unix.Close(it.fd)
		return fmt.Errorf("take back %q of %q: %w", name, h.Key, err)
	}
	r.mu.Lock()
	r.keep(h.Key, name, dup)
	r.mu.Unlock()
	f := os.NewFile(uintptr(it.fd), name)
	p := h.Process
	switch {
	case p == nil || name != ctlName && name != consoleName:
		h.Files[name] = f
		return nil
	case name == consoleName:
		p.mu.Lock()
		p.console = f
		p.mu.Unlock()
		return nil
	}
	// The gate was opened if the other end is closed or has said more than that
	// it is ready; we may have died before we could say that to the keeper.
	var b [1]byte
	n, _, err := unix.Recvfrom(it.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err == nil || n > 0 {
		f.Close()
		return r.Drop(h.Key, ctlName)
	}
	p.mu.Lock()
	p.ctl = f
	p.mu.Unlock()
	return nil
}

// fetchAll asks for everything held.
func (l *link) fetchAll(ctx context.Context) ([]item, error) {
	var items []item
	var from uint64
	for {
		if err := l.send(wire.KindFetch, &wire.Fetch{From: from}); err != nil {
			return nil, err
		}
		for more := true; more; {
			select {
			case it := <-l.fetched:
				if it.end == nil {
					items = append(items, it)
					continue
				}
				if !it.end.More {
					return items, nil
				}
				from, more = it.end.Next, false
			case <-l.down:
				return nil, errKeeperGone
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
}

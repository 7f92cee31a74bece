package fake

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// saved is the state file. It is written whole after each change: a fake has
// few containers.
type saved struct {
	Sandboxes  map[string]*backendpb.Sandbox
	Containers map[string]*ctr
	Events     journal
}

// save writes the state file. Call with mu held.
func (b *Backend) save() error {
	if b.closed {
		return errClosed
	}
	if b.o.StateFile == "" {
		return nil
	}
	data, err := json.Marshal(saved{b.sandboxes, b.containers, b.events})
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.o.StateFile+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(b.o.StateFile+".new", b.o.StateFile)
}

// mustSave is save where nobody waits for the outcome.
func (b *Backend) mustSave() {
	if err := b.save(); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errClosed) {
		panic(err)
	}
}

// load reads the state file and lets what ran go on.
func (b *Backend) load() error {
	if b.o.StateFile == "" {
		return nil
	}
	data, err := os.ReadFile(b.o.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s := saved{b.sandboxes, b.containers, b.events}
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("state file %s: %w: %w", b.o.StateFile, err, errdefs.ErrDataLoss)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sandboxes, b.containers, b.events = s.Sandboxes, s.Containers, s.Events
	for _, c := range b.containers {
		c.resume(b, c.Init)
		for _, p := range c.Execs {
			c.resume(b, p)
		}
	}
	return nil
}

// resume makes a loaded process run again at the step it was at. Log lines that
// the step had written before the crash are cut off: it writes them again.
func (c *ctr) resume(b *Backend, p *proc) {
	p.sinks = map[*attachment]struct{}{}
	if p.Partial == nil {
		p.Partial = map[backendpb.AttachOutput_Stream][]byte{}
	}
	p.gone = p.Phase == backendpb.ProcessState_EXITED
	if p.Phase != backendpb.ProcessState_RUNNING {
		return
	}
	if path := c.Log.GetPath(); p == c.Init && path != "" {
		if fi, err := os.Stat(path); err == nil && fi.Size() > p.LogSize {
			if err := os.Truncate(path, p.LogSize); err != nil {
				p.LogSize = fi.Size()
			}
		}
	}
	go b.run(c, p)
}

func now() int64 { return time.Now().UnixNano() }

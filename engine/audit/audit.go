// Package audit keeps the host owner's record of who asked for what and how it
// was answered: one JSON object a line, appended to a file of bounded size.
//
// The API layer opens a Note for every request, the engine writes into it what
// only it knows (what was made, by which rule), and the API layer appends the
// entry when the answer is known. A line is in the kernel's hands when Append
// returns; it is not synced to the disk.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/policy"
)

// Outcomes of a request.
const (
	Allowed = "allowed" // and done
	Denied  = "denied"  // by the policy
	Failed  = "failed"  // for another reason
)

// Entry is one line.
type Entry struct {
	Time   time.Time `json:"time"`
	Client string    `json:"client"`           // uid:1000, cert:ci, engine
	Tenant string    `json:"tenant,omitempty"` // "" for an admin
	GID    *int      `json:"gid,omitempty"`
	PID    int       `json:"pid,omitempty"`
	Cert   string    `json:"cert,omitempty"`

	Action string `json:"action"` // what the API calls it
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`   // without version and query
	Object string `json:"object,omitempty"` // as the client named it
	Made   string `json:"made,omitempty"`   // id of what was made

	Outcome string `json:"outcome"`
	Status  int    `json:"status,omitempty"`
	Rule    string `json:"rule,omitempty"`
	Level   string `json:"level,omitempty"`
	Backend string `json:"backend,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// By fills in who it was.
func (e *Entry) By(id identity.Identity) {
	e.Client, e.PID, e.Cert = id.Name(), id.PID, id.Cert
	if !id.Admin {
		e.Tenant = id.Tenant
	}
	if id.GID >= 0 {
		gid := id.GID
		e.GID = &gid
	}
}

// Note collects what becomes known of a request on its way. A nil Note takes
// everything and keeps nothing.
type Note struct {
	mu    sync.Mutex
	entry Entry
}

// Made says what was made, and by which decision.
func (n *Note) Made(id string, d policy.Decision) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	e := &n.entry
	e.Made, e.Rule, e.Level, e.Backend, e.Reason = id, d.Rule, d.Level, d.Backend, d.Reason
}

// Entry is what was collected.
func (n *Note) Entry() Entry {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.entry
}

type key struct{}

// With returns a context that carries n.
func With(ctx context.Context, n *Note) context.Context { return context.WithValue(ctx, key{}, n) }

// From is the context's note, nil if it has none.
func From(ctx context.Context) *Note {
	n, _ := ctx.Value(key{}).(*Note)
	return n
}

// Bounds of the file: when it is full it becomes <name>.1, that <name>.2, and
// so on; the last goes.
const (
	DefaultSize  = 16 << 20
	DefaultFiles = 5
	maxText      = 2048 // of one field that a client chose
)

// Log is the file. Its methods are safe for concurrent use.
type Log struct {
	path  string
	size  int64
	files int

	mu   sync.Mutex
	f    *os.File
	used int64
	buf  []byte
}

// Open opens or makes the file. size and files 0 are the defaults.
func Open(path string, size int64, files int) (*Log, error) {
	l := &Log{path: path, size: size, files: files}
	if l.size <= 0 {
		l.size = DefaultSize
	}
	if l.files <= 0 {
		l.files = DefaultFiles
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return l, l.open()
}

// open opens the file; the caller holds mu or is alone.
func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close() // there is a better error already
		return fmt.Errorf("audit log: %w", err)
	}
	l.f, l.used = f, st.Size()
	return nil
}

// Append writes one entry. A nil Log keeps nothing.
func (l *Log) Append(e Entry) error {
	if l == nil {
		return nil
	}
	for _, s := range []*string{&e.Path, &e.Object, &e.Reason, &e.Cert, &e.Client} {
		if len(*s) > maxText {
			*s = (*s)[:maxText] + "…"
		}
	}
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return fmt.Errorf("audit log: %w", os.ErrClosed)
	}
	if l.used > 0 && l.used+int64(len(b))+1 > l.size {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	l.buf = append(append(l.buf[:0], b...), '\n')
	n, err := l.f.Write(l.buf) // in one call: lines never mix
	l.used += int64(n)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

// rotate begins a new file. The caller holds mu.
func (l *Log) rotate() error {
	for i := l.files - 1; i > 0; i-- {
		from := fmt.Sprintf("%s.%d", l.path, i-1)
		if i == 1 {
			from = l.path
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", l.path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("audit log: %w", err)
		}
	}
	if l.files == 1 {
		if err := os.Remove(l.path); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
	}
	_ = l.f.Close() // what was written is written
	l.f = nil
	return l.open()
}

// Close closes the file. Idempotent, nil-safe.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close()
}

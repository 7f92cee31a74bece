// Package template keeps saved machines to clone.
//
// A template is made the first time that somebody asks for it, in the background:
// who asks boots a machine meanwhile. It serves until it is too old, when it is
// made anew while the old one still serves, or until room is needed for another
// and it is the one that was longest not asked for. A template that could not be
// made is not tried again at once.
//
//	absent ──Get──▶ being made ──▶ serving ──age──▶ being made, old one serving
//	   ▲               │ error        │ room
//	   └── after a while ◀┘ ◀─────────┘
//
// Clones share the memory that none of them changed. That is what makes them
// cheap, and it is a channel from one to another: who can measure how long a page
// takes to be written to can tell whether somebody else did it before. A template
// therefore belongs to one tenant, unless the host owner allows otherwise.
package template

import (
	"errors"
	"sync"
	"time"

	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// Key is what a template is for.
type Key struct {
	// Tenant whose machines are cloned of it; empty where tenants share.
	Tenant string
	// Shape is vmm.VMM.Key of the machine's shape.
	Shape string
}

// Options of a Store.
type Options struct {
	// Max is how many templates are kept. Each takes the memory that its guest had
	// touched when it was saved. Zero is DefaultMax.
	Max int
	// MaxAge is how old one may get. Zero is DefaultMaxAge.
	MaxAge time.Duration
	// Retry is how long after a failure the next attempt is. Zero is DefaultRetry.
	Retry time.Duration
	// Failed is told why a template could not be made; nil is nobody.
	Failed func(Key, error)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Defaults of Options.
const (
	DefaultMax    = 16
	DefaultMaxAge = 24 * time.Hour
	DefaultRetry  = time.Minute
)

// Store keeps templates.
type Store struct {
	opts   Options
	making sync.WaitGroup
	// One at a time: they are made while machines are started.
	turn sync.Mutex

	mu      sync.Mutex
	closed  bool
	entries map[Key]*entry
}

// entry is what is known of a key.
type entry struct {
	serving *lease // nil: none yet
	making  bool
	made    time.Time
	used    time.Time
	failed  time.Time // when, zero if the last attempt did not fail
}

// lease counts who still needs a template's descriptors.
type lease struct {
	template *vmm.Template
	users    int
	dropped  bool
}

// New makes an empty store.
func New(opts Options) *Store {
	if opts.Max == 0 {
		opts.Max = DefaultMax
	}
	if opts.MaxAge == 0 {
		opts.MaxAge = DefaultMaxAge
	}
	if opts.Retry == 0 {
		opts.Retry = DefaultRetry
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Failed == nil {
		opts.Failed = func(Key, error) {}
	}
	return &Store{opts: opts, entries: map[Key]*entry{}}
}

// Get returns a template and what ends its use, which is when the machine was
// launched; or nil if there is none yet, after having seen to it that build makes
// one.
func (s *Store) Get(key Key, build func() (*vmm.Template, error)) (*vmm.Template, func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil
	}
	now := s.opts.Now()
	e := s.entries[key]
	if e == nil {
		if !s.makeRoom() {
			return nil, nil
		}
		e = &entry{}
		s.entries[key] = e
	}
	e.used = now
	old := e.serving == nil || now.Sub(e.made) > s.opts.MaxAge
	if old && !e.making && (e.failed.IsZero() || now.Sub(e.failed) >= s.opts.Retry) {
		e.making = true
		s.making.Go(func() { s.make(key, e, build) })
	}
	if e.serving == nil {
		return nil, nil
	}
	l := e.serving
	l.users++
	return l.template, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		l.users--
		l.closeIfUnused()
	})
}

func (s *Store) make(key Key, e *entry, build func() (*vmm.Template, error)) {
	s.turn.Lock()
	var t *vmm.Template
	err := errors.New("the store was closed")
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if !closed {
		t, err = build()
	}
	s.turn.Unlock()
	if err == nil && t == nil {
		err = errors.New("nothing was made")
	}
	s.mu.Lock()
	e.making = false
	switch {
	case err != nil:
		e.failed = s.opts.Now()
	case s.closed || s.entries[key] != e:
		// Nobody wants it any more.
		_ = t.Close()
	default:
		e.drop()
		e.serving, e.made, e.failed = &lease{template: t}, s.opts.Now(), time.Time{}
	}
	s.mu.Unlock()
	if err != nil {
		s.opts.Failed(key, err)
	}
}

// makeRoom drops the entry that was longest not asked for, if there are too many,
// and says whether there is room now. One that is being made stays.
func (s *Store) makeRoom() bool {
	if len(s.entries) < s.opts.Max {
		return true
	}
	var oldest Key
	var found *entry
	for key, e := range s.entries {
		if !e.making && (found == nil || e.used.Before(found.used)) {
			oldest, found = key, e
		}
	}
	if found == nil {
		return false
	}
	found.drop()
	delete(s.entries, oldest)
	return true
}

func (e *entry) drop() {
	if e.serving != nil {
		e.serving.dropped = true
		e.serving.closeIfUnused()
		e.serving = nil
	}
}

func (l *lease) closeIfUnused() {
	if l.dropped && l.users == 0 {
		_ = l.template.Close()
	}
}

// Len is how many templates serve.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.entries {
		if e.serving != nil {
			n++
		}
	}
	return n
}

// Close drops all templates and waits for those that are being made.
func (s *Store) Close() {
	s.mu.Lock()
	s.closed = true
	for key, e := range s.entries {
		e.drop()
		delete(s.entries, key)
	}
	s.mu.Unlock()
	s.making.Wait()
}

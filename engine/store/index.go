package store

import (
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/identity"
)

// Index finds things by id, unambiguous id prefix, or name, for one client: what
// is in a scope that the client does not see is not there. Names are unique in
// their scope, and may be reserved for an id that is not there yet. Its methods
// are safe for concurrent use.
type Index[T any] struct {
	kind string // as errors name one: "container"

	mu    sync.RWMutex
	byID  map[string]item[T]
	names map[name]string // to id
}

type item[T any] struct {
	v     T
	scope string
}

type name struct{ scope, name string }

// NewIndex makes an empty index of things called kind in error messages.
func NewIndex[T any](kind string) *Index[T] {
	return &Index[T]{kind: kind, byID: map[string]item[T]{}, names: map[name]string{}}
}

// Reserve takes a name of a scope for an id. AlreadyExists with the owner's id
// if it is taken.
func (x *Index[T]) Reserve(scope, called, id string) (owner string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := name{scope, called}
	if o, ok := x.names[n]; ok && o != id {
		return o, fmt.Errorf("the name %q is taken by %s: %w", called, o, errdefs.ErrAlreadyExists)
	}
	x.names[n] = id
	return id, nil
}

// Unreserve frees a name if it is id's.
func (x *Index[T]) Unreserve(scope, called, id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := (name{scope, called}); x.names[n] == id {
		delete(x.names, n)
	}
}

// Put adds a thing of a scope or replaces it.
func (x *Index[T]) Put(scope, id string, v T) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID[id] = item[T]{v, scope}
}

// Delete forgets an id and the name that it has.
func (x *Index[T]) Delete(id, called string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := name{x.byID[id].scope, called}
	delete(x.byID, id)
	if x.names[n] == id {
		delete(x.names, n)
	}
}

// Get finds by full id, whosever it is: it is for the engine's own work, never
// for what a client wrote.
func (x *Index[T]) Get(id string) (T, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	v, ok := x.byID[id]
	return v.v, ok
}

// Find finds what a client means: by id, name (a leading slash is ignored; its
// own scope's first) or unambiguous id prefix, in that order. NotFound in
// Docker's words, InvalidArgument if ambiguous.
func (x *Index[T]) Find(as identity.Identity, ref string) (T, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var none T
	if v, ok := x.byID[ref]; ok && as.Sees(v.scope) {
		return v.v, nil
	}
	called := strings.TrimPrefix(ref, "/")
	if v, ok := x.byID[x.names[name{as.Scope(), called}]]; ok {
		return v.v, nil
	}
	if as.Admin {
		switch v, n := x.anyScope(called); {
		case n == 1:
			return v, nil
		case n > 1:
			return none, fmt.Errorf("several tenants have a %s called %s: use its id: %w", x.kind, ref, errdefs.ErrInvalidArgument)
		}
	}
	if ref != "" {
		var found []T
		for id, v := range x.byID {
			if strings.HasPrefix(id, ref) && as.Sees(v.scope) {
				if found = append(found, v.v); len(found) > 1 {
					return none, fmt.Errorf("multiple IDs found with provided prefix: %s: %w", ref, errdefs.ErrInvalidArgument)
				}
			}
		}
		if len(found) == 1 {
			return found[0], nil
		}
	}
	return none, fmt.Errorf("No such %s: %s: %w", x.kind, ref, errdefs.ErrNotFound) //nolint:staticcheck // Docker's words
}

// anyScope counts what has a name in whatever scope. The caller holds mu.
func (x *Index[T]) anyScope(called string) (v T, n int) {
	for k, id := range x.names {
		if it, ok := x.byID[id]; k.name == called && ok {
			v = it.v
			n++
		}
	}
	return v, n
}

// Visible returns everything that a client sees, in no order.
func (x *Index[T]) Visible(as identity.Identity) []T {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]T, 0, len(x.byID))
	for _, v := range x.byID {
		if as.Sees(v.scope) {
			out = append(out, v.v)
		}
	}
	return out
}

// All returns everything, in no order, for the engine's own work.
func (x *Index[T]) All() []T { return x.Visible(identity.Engine) }

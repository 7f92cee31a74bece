package store

import (
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

// Index finds things by id, unambiguous id prefix, or name, and keeps names
// unique. A name may be reserved for an id that is not there yet. Its methods
// are safe for concurrent use.
type Index[T any] struct {
	kind string // as errors name one: "container"

	mu    sync.RWMutex
	byID  map[string]T
	names map[string]string // name → id
}

// NewIndex makes an empty index of things called kind in error messages.
func NewIndex[T any](kind string) *Index[T] {
	return &Index[T]{kind: kind, byID: map[string]T{}, names: map[string]string{}}
}

// Reserve takes a name for an id. AlreadyExists with the owner's id if it is taken.
func (x *Index[T]) Reserve(name, id string) (owner string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if o, ok := x.names[name]; ok && o != id {
		return o, fmt.Errorf("the name %q is taken by %s: %w", name, o, errdefs.ErrAlreadyExists)
	}
	x.names[name] = id
	return id, nil
}

// Unreserve frees a name if it is id's.
func (x *Index[T]) Unreserve(name, id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.names[name] == id {
		delete(x.names, name)
	}
}

// Put adds a thing or replaces it.
func (x *Index[T]) Put(id string, v T) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID[id] = v
}

// Delete forgets an id and the names it has.
func (x *Index[T]) Delete(id, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byID, id)
	if x.names[name] == id {
		delete(x.names, name)
	}
}

// Get finds by full id.
func (x *Index[T]) Get(id string) (T, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	v, ok := x.byID[id]
	return v, ok
}

// Find finds by id, name (a leading slash is ignored) or unambiguous id prefix,
// in that order. NotFound in Docker's words, InvalidArgument if ambiguous.
func (x *Index[T]) Find(ref string) (T, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var none T
	if v, ok := x.byID[ref]; ok {
		return v, nil
	}
	if id, ok := x.names[strings.TrimPrefix(ref, "/")]; ok {
		if v, ok := x.byID[id]; ok {
			return v, nil
		}
	}
	if ref != "" {
		var found []T
		for id, v := range x.byID {
			if strings.HasPrefix(id, ref) {
				if found = append(found, v); len(found) > 1 {
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

// All returns everything, in no order.
func (x *Index[T]) All() []T {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]T, 0, len(x.byID))
	for _, v := range x.byID {
		out = append(out, v)
	}
	return out
}

// Package tenants gives every tenant an image store of its own beside that of
// the host's owner.
//
// Stores share nothing, not even bytes that happen to be the same: so what one
// tenant has cannot be reached by its name, its digest or by offering a manifest
// that lists it, and nobody learns from how fast a pull is what another has.
// That costs disk where tenants use the same images; the owner can share images
// instead, which tenants then use where they are, and read only.
//
// # Who finds what
//
//	a tenant          its own store, then what the owner shares
//	the host's owner  their own store, then the tenants', in the order of names
//
// What is made goes into the store of who asks. One exception: an image that an
// admin commits from a tenant's image becomes the tenant's.
package tenants

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images"
)

// Config is what a Service is made from.
type Config struct {
	// Host makes the stores; its Root is the host owner's.
	Host images.Config
	// Root is the directory of the tenants' stores: each in <Root>/<dir>/images.
	Root string
	// Dir and Scope turn a tenant into the name of its directory and back.
	Dir   func(scope string) string
	Scope func(dir string) (string, bool)
	// Of tells whose store a request means: "" the host owner's.
	Of func(context.Context) string
	// Shares tells whether tenants may use an image of the owner's by its full name.
	Shares func(name string) bool
	// Registry says whether a request may speak to a registry, host[:port]; nil: always.
	Registry func(ctx context.Context, host string) error
	// Room is how many bytes more a scope may store, or why none; nil: any number.
	Room func(scope string) (int64, error)
	Log  *slog.Logger // nil discards
}

// Service is all stores. It has the methods of images.Service, and is safe for
// concurrent use.
type Service struct {
	cfg  Config
	log  *slog.Logger
	host *images.Service

	mu       sync.Mutex
	stores   map[string]*images.Service // of tenants, those that are open
	builtins []builtin
	roots    map[string]string // key of a writable layer → its store, where that is a tenant's
	closed   bool
}

type builtin struct {
	name    string
	archive func() io.ReadCloser
	digest  digest.Digest
}

// New opens the host owner's store and looks where the tenants' writable layers
// are. Tenants' stores are opened when they are needed.
func New(ctx context.Context, c Config) (*Service, error) {
	s := &Service{cfg: c, log: c.Log, stores: map[string]*images.Service{}, roots: map[string]string{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.Registry == nil {
		s.cfg.Registry = func(context.Context, string) error { return nil }
	}
	if s.cfg.Room == nil {
		s.cfg.Room = func(string) (int64, error) { return math.MaxInt64, nil }
	}
	// Closed to users of the host, who may be other tenants.
	err := os.MkdirAll(c.Root, 0o710)
	if err == nil {
		err = os.Chmod(c.Root, 0o710)
	}
	if err != nil {
		return nil, fmt.Errorf("make the tenants' directory: %w", err)
	}
	host, err := images.New(ctx, c.Host)
	if err != nil {
		return nil, err
	}
	s.host = host
	scopes, err := s.scopes()
	if err != nil {
		return nil, errors.Join(err, host.Close())
	}
	for _, scope := range scopes {
		// A store with writable layers is needed soon, and has leftovers to collect.
		st, err := s.store(ctx, scope)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		keys, err := st.Roots(ctx)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		for _, k := range keys {
			s.roots[k] = scope
		}
	}
	return s, nil
}

// Close closes every store.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	errs := []error{s.host.Close()}
	for _, st := range s.stores {
		errs = append(errs, st.Close())
	}
	clear(s.stores)
	return errors.Join(errs...)
}

// Host is the host owner's store.
func (s *Service) Host() *images.Service { return s.host }

// scopes lists the tenants that have a store, sorted.
func (s *Service) scopes() ([]string, error) {
	entries, err := os.ReadDir(s.cfg.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	var out []string
	for _, e := range entries {
		scope, ok := s.cfg.Scope(e.Name())
		if _, err := os.Stat(s.path(scope)); ok && err == nil {
			out = append(out, scope)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (s *Service) path(scope string) string {
	return filepath.Join(s.cfg.Root, s.cfg.Dir(scope), "images")
}

// store opens a store, or finds it open.
func (s *Service) store(ctx context.Context, scope string) (*images.Service, error) {
	if scope == "" {
		return s.host, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.stores[scope]; st != nil {
		return st, nil
	}
	if s.closed {
		return nil, fmt.Errorf("the image store is closed: %w", errdefs.ErrUnavailable)
	}
	if s.cfg.Dir(scope) == "" {
		return nil, fmt.Errorf("the tenant's name cannot be that of a directory: %w", errdefs.ErrInvalidArgument)
	}
	c := s.cfg.Host
	c.Root = s.path(scope)
	c.Room = func() int64 {
		n, _ := s.cfg.Room(scope) // 0 with an error
		return n
	}
	st, err := images.New(context.WithoutCancel(ctx), c)
	if err != nil {
		return nil, fmt.Errorf("open the images of a tenant: %w", err)
	}
	for _, b := range s.builtins {
		if err := st.EnsureBuiltin(ctx, b.name, b.archive, b.digest); err != nil {
			return nil, errors.Join(err, st.Close())
		}
	}
	s.stores[scope] = st
	return st, nil
}

// own is the store of who asks.
func (s *Service) own(ctx context.Context) (*images.Service, string, error) {
	scope := s.cfg.Of(ctx)
	st, err := s.store(ctx, scope)
	return st, scope, err
}

// ownToFill is own for what stores more.
func (s *Service) ownToFill(ctx context.Context) (*images.Service, string, error) {
	if _, err := s.cfg.Room(s.cfg.Of(ctx)); err != nil {
		return nil, "", err
	}
	return s.own(ctx)
}

// EnsureBuiltin offers an image to everybody; see images.Service.
func (s *Service) EnsureBuiltin(ctx context.Context, name string, archive func() io.ReadCloser, dgst digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.builtins = append(s.builtins, builtin{name, archive, dgst})
	for _, st := range s.stores {
		if err := st.EnsureBuiltin(ctx, name, archive, dgst); err != nil {
			return err
		}
	}
	return s.host.EnsureBuiltin(ctx, name, archive, dgst)
}

// find resolves what a client means: in its own store, then among what else it
// sees. Every lookup goes through here.
func (s *Service) find(ctx context.Context, ref string, platform *ocispec.Platform) (*images.Service, *images.Image, error) {
	st, scope, err := s.own(ctx)
	if err != nil {
		return nil, nil, err
	}
	img, err := st.Get(ctx, ref, platform)
	if err == nil {
		return st, in(img, scope), nil
	}
	if !errdefs.IsNotFound(err) {
		return nil, nil, err
	}
	if scope != "" {
		shared, serr := s.host.Get(ctx, ref, platform)
		if serr != nil {
			return nil, nil, err
		}
		if img = s.shared(shared, ref); img == nil {
			return nil, nil, err
		}
		return s.host, img, nil
	}
	scopes, serr := s.scopes()
	if serr != nil {
		return nil, nil, serr
	}
	for _, scope := range scopes {
		st, serr := s.store(ctx, scope)
		if serr != nil {
			return nil, nil, serr
		}
		if img, serr := st.Get(ctx, ref, platform); serr == nil {
			return st, in(img, scope), nil
		}
	}
	return nil, nil, err
}

// in is an image of a store. Images are shared, so that a tenant's is a copy.
func in(img *images.Image, scope string) *images.Image {
	if scope == "" {
		return img
	}
	c := *img
	c.Store = scope
	return &c
}

// shared is what tenants see of an image of the owner's: it under the names that
// are shared, nil if none is. ref, unless "", must be one of these or an id.
func (s *Service) shared(img *images.Image, ref string) *images.Image {
	c := *img
	c.Names, c.Proven, c.RepoDigests, c.Parent = nil, nil, nil, ""
	for _, n := range img.Names {
		if full := images.FullName(n); s.cfg.Shares(full) {
			c.Names = append(c.Names, n)
			c.Proven = append(c.Proven, full) // the owner's word
		}
	}
	if len(c.Names) == 0 {
		return nil
	}
	for _, d := range img.RepoDigests {
		repo, _, _ := strings.Cut(d, "@")
		if slices.ContainsFunc(c.Names, func(n string) bool { return strings.HasPrefix(n, repo+":") }) {
			c.RepoDigests = append(c.RepoDigests, d)
		}
	}
	full := images.FullName(ref)
	named := slices.Contains(c.Proven, full)
	byDigest := slices.ContainsFunc(c.RepoDigests, func(d string) bool { return images.FullName(d) == full })
	if ref == "" || named || byDigest || !slices.ContainsFunc(img.Names, func(n string) bool { return images.FullName(n) == full }) && images.IsID(ref) {
		return &c
	}
	return nil
}

// Get finds an image; see images.Service.
func (s *Service) Get(ctx context.Context, ref string, platform *ocispec.Platform) (*images.Image, error) {
	_, img, err := s.find(ctx, ref, platform)
	return img, err
}

// History tells how an image was made; see images.Service.
func (s *Service) History(ctx context.Context, ref string, platform *ocispec.Platform) ([]images.HistoryEntry, error) {
	st, img, err := s.find(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	h, err := st.History(ctx, img.ID.String(), platform)
	if len(h) > 0 {
		h[0].Tags = img.Names
	}
	return h, err
}

// List lists what a client sees: a tenant also what is shared, the owner also
// what tenants have, each image once.
func (s *Service) List(ctx context.Context, o images.ListOptions) ([]*images.Image, error) {
	st, scope, err := s.own(ctx)
	if err != nil {
		return nil, err
	}
	o, keep, err := s.neighbours(ctx, o)
	if err != nil {
		return nil, err
	}
	out, err := st.List(ctx, o)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i] = in(out[i], scope)
	}
	add := func(more []*images.Image) {
		for _, img := range more {
			if !slices.ContainsFunc(out, func(have *images.Image) bool { return have.ID == img.ID }) {
				out = append(out, img)
			}
		}
	}
	if scope != "" {
		// Filters see only what is shared: one on a name that is not would tell.
		all, err := s.host.List(ctx, images.ListOptions{All: o.All})
		if err != nil {
			return nil, err
		}
		var shared []*images.Image
		for _, img := range all {
			if sh := s.shared(img, ""); sh != nil {
				ok, err := images.Passes(sh, o.Filters)
				if err != nil {
					return nil, err
				}
				if ok {
					shared = append(shared, sh)
				}
			}
		}
		add(shared)
	} else {
		scopes, err := s.scopes()
		if err != nil {
			return nil, err
		}
		for _, scope := range scopes {
			st, err := s.store(ctx, scope)
			if err != nil {
				return nil, err
			}
			list, err := st.List(ctx, o)
			if err != nil {
				return nil, err
			}
			for i := range list {
				list[i] = in(list[i], scope)
			}
			add(list)
		}
	}
	out = slices.DeleteFunc(out, func(img *images.Image) bool { return !keep(img) })
	slices.SortStableFunc(out, func(a, b *images.Image) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// neighbours takes the filters out that name another image, which may be in
// another store.
func (s *Service) neighbours(ctx context.Context, o images.ListOptions) (images.ListOptions, func(*images.Image) bool, error) {
	filters := map[string][]string{}
	var tests []func(*images.Image) bool
	for k, values := range o.Filters {
		if k != "before" && k != "since" {
			filters[k] = values
			continue
		}
		for _, v := range values {
			other, err := s.Get(ctx, v, nil)
			if err != nil {
				return o, nil, err
			}
			if k == "before" {
				tests = append(tests, func(img *images.Image) bool { return img.Created.Before(other.Created) })
			} else {
				tests = append(tests, func(img *images.Image) bool { return img.Created.After(other.Created) })
			}
		}
	}
	o.Filters = filters
	return o, func(img *images.Image) bool {
		return !slices.ContainsFunc(tests, func(t func(*images.Image) bool) bool { return !t(img) })
	}, nil
}

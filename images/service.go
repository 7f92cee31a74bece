package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images/gc"
	"github.com/caisson-engine/caisson/images/registry"
	"github.com/caisson-engine/caisson/images/store"
	"github.com/caisson-engine/caisson/images/unpack"
)

// Config is what a Service is made from.
type Config struct {
	// Root is the directory that the service owns. It holds content/,
	// metadata.db, snapshots/ and roots/.
	Root string
	// Snapshotter opens the snapshotter below dir; nil chooses the platform's:
	// overlay on Linux, native elsewhere.
	Snapshotter func(dir string) (snapshots.Snapshotter, error)
	// SnapshotterName is its name in the metadata database; "" goes with a nil Snapshotter.
	SnapshotterName string
	// Platform is what an image is chosen for where a caller names none; nil: the host's.
	Platform *ocispec.Platform
	// InsecureRegistries are host[:port] that may be spoken to without TLS or
	// with an unverified certificate. Loopback always may.
	InsecureRegistries []string
	// MaxConcurrentDownloads bounds the blobs of one pull in flight; 0: 3.
	MaxConcurrentDownloads int
	// Limits bound what a hostile image can take; zero fields have defaults.
	Limits Limits
	// Room is how many bytes the store may still take; nil: as many as there are.
	Room func() int64
	// Owner tells whose image a request makes; nil: nobody's.
	Owner func(context.Context) string
	// UserAgent is what registries see; "": "caisson".
	UserAgent string
	Log       *slog.Logger // nil discards
}

// Limits bound one image.
type Limits struct {
	Unpacked int64 // bytes of an image unpacked; 0: nine tenths of the free disk
	Entries  int   // files of one layer; 0: four million
}

// Service stores images. It is safe for concurrent use.
type Service struct {
	cfg      Config
	log      *slog.Logger
	platform ocispec.Platform
	store    *store.Store
	registry *registry.Client
	gc       *gc.Worker
	syncer   *gc.Worker // writes unpacked layers back to the disk
	trash    *gc.Worker // deletes released roots
	unzip    unpack.Decompressor
	overlay  bool // layers unpack side by side and roots are our own directories

	gen   atomic.Uint64 // counts changes of the database
	cat   atomic.Pointer[catalog]
	catMu sync.Mutex

	docsMu sync.Mutex
	docs   map[digest.Digest]any // parsed manifests, indexes and configs
	sizes  memo[int64]           // by chain id, its layer's bytes

	blobs  locks // by blob digest: one download
	chains locks // by image: one unpacking

	builtins sync.Map // stored name to *builtin

	roots    roots
	unsynced unsynced
}

// New opens or creates the store below c.Root. What an earlier process left
// unfinished is collected in the background; partial downloads stay.
func New(ctx context.Context, c Config) (*Service, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Snapshotter == nil {
		c.Snapshotter, c.SnapshotterName = store.NewSnapshotter, store.DefaultSnapshotter
	}
	if c.Owner == nil {
		c.Owner = func(context.Context) string { return "" }
	}
	if c.MaxConcurrentDownloads <= 0 {
		c.MaxConcurrentDownloads = 3
	}
	if c.UserAgent == "" {
		c.UserAgent = "caisson"
	}
	s := &Service{
		cfg: c, log: c.Log, platform: platforms.DefaultSpec(), docs: map[digest.Digest]any{},
		registry: registry.New(c.InsecureRegistries, c.UserAgent), unzip: unpack.FindIgzip(),
	}
	if c.Platform != nil {
		s.platform = *c.Platform
	}
	st, err := store.Open(ctx, c.Root, c.SnapshotterName, c.Snapshotter, func() { s.gen.Add(1) })
	if err != nil {
		return nil, err
	}
	s.store = st
	s.overlay = c.SnapshotterName == "overlayfs"
	s.syncer = gc.New("writing layers to the disk", s.syncLayers, c.Log)
	s.trash = gc.New("deleting root filesystems", s.emptyTrash, c.Log)
	s.gc = gc.New("garbage collection of images", func(ctx context.Context) error {
		s.sizes.suspend()
		defer s.sizes.resume()
		s.roots.lowers.suspend()
		defer s.roots.lowers.resume()
		_, err := st.DB.GarbageCollect(store.Context(ctx))
		s.gen.Add(1) // a collection reports its own changes to nobody
		return err
	}, c.Log)
	if err := errors.Join(s.distrustUnsynced(ctx), s.restoreRoots(ctx), s.sweep(ctx)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.gc.Schedule()
	return s, nil
}

// Close waits for background work and closes the store.
func (s *Service) Close() error {
	s.gc.Close()
	s.syncer.Close()
	s.trash.Close()
	s.registry.Close()
	return s.store.Close()
}

func (s *Service) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Root}, elem...)...)
}

// budget is what one image may take unpacked.
func (s *Service) budget() *unpack.Budget {
	n := s.cfg.Limits.Unpacked
	if free, err := freeDisk(s.cfg.Root); err == nil && (n == 0 || free/10*9 < n) {
		n = free / 10 * 9
	}
	if s.cfg.Room != nil {
		n = min(n, s.cfg.Room())
	}
	return unpack.NewBudget(n)
}

// keyed is the locking of one thing by name.
type keyed struct {
	ch    chan struct{} // holds a token while free
	users int
}

// locks are mutexes by name that can be waited for with a context.
type locks struct {
	mu sync.Mutex
	m  map[string]*keyed
}

// names are those that are locked or waited for.
func (l *locks) names() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.m))
}

// lock waits for name; the caller calls unlock once.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	k := l.m[name]
	if k == nil {
		k = &keyed{ch: make(chan struct{}, 1)}
		k.ch <- struct{}{}
		if l.m == nil {
			l.m = map[string]*keyed{}
		}
		l.m[name] = k
	}
	k.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.m, name)
		}
	}
	select {
	case <-k.ch:
		return func() { k.ch <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}

// Search asks a registry's own search, Docker Hub's if term names none.
func (s *Service) Search(ctx context.Context, term string, limit int, auth *Auth) ([]SearchResult, error) {
	if limit <= 0 || limit > 100 {
		limit = 25
	}
	hits, err := s.registry.Search(ctx, term, limit, credential(auth))
	if err != nil {
		return nil, err
	}
	out := make([]SearchResult, len(hits))
	for i, h := range hits {
		out[i] = SearchResult(h)
	}
	return out, nil
}

// Login checks a credential and returns an identity token where the registry
// gives one.
func (s *Service) Login(ctx context.Context, address string, auth Auth) (string, error) {
	if address == "" {
		address = auth.ServerAddress
	}
	return s.registry.Login(ctx, address, *credential(&auth))
}

func credential(a *Auth) *registry.Auth {
	if a == nil {
		return nil
	}
	return &registry.Auth{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
}

// DiskUsage is the size in bytes of all blobs and unpacked layers, each counted once.
func (s *Service) DiskUsage(ctx context.Context) (int64, error) {
	return s.store.Usage(ctx)
}

var _ io.Closer = (*Service)(nil)

// wrap names what failed.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// context puts the store's namespace into ctx.
func (s *Service) context(ctx context.Context) context.Context { return store.Context(ctx) }

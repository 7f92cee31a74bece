// Package store is where images live: containerd's content store, metadata
// database, snapshotter and leases, opened together below one directory so
// that other users of the same libraries (BuildKit) can share them.
//
// Whatever is written under a lease stays until the lease ends; after that it
// stays as long as an image refers to it, through the labels that Refer sets.
package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Namespace is the one that all our records are in.
const Namespace = "caisson"

// PartialTTL is how long an unfinished download is kept for a later pull.
const PartialTTL = 24 * time.Hour

// Store is the open store. Its fields take a context from Context.
type Store struct {
	DB              *metadata.DB
	Content         content.Store
	Images          images.Store
	Leases          leases.Manager
	Snapshots       snapshots.Snapshotter
	SnapshotterName string

	backing snapshots.Snapshotter
}

// Open opens or creates the store below root. open makes the snapshotter below
// the directory that it is given. changed is called after every change of the
// database, from any goroutine. Unavailable if another engine has it open.
func Open(ctx context.Context, root, name string, open func(dir string) (snapshots.Snapshotter, error), changed func()) (*Store, error) {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, fmt.Errorf("make image store: %w", err)
	}
	opts := *bolt.DefaultOptions
	opts.Timeout = 3 * time.Second
	opts.NoFreelistSync = true
	opts.FreelistType = bolt.FreelistMapType
	db, err := bolt.Open(filepath.Join(root, "metadata.db"), 0o600, &opts)
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("image store %s is in use by another engine; stop it or choose another --data-root: %w", root, errdefs.ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("open image store %s: %w", root, err)
	}
	cs, err := openContent(filepath.Join(root, "content"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open content store: %w", err), db.Close())
	}
	sn, err := open(filepath.Join(root, "snapshots"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open snapshotter %s: %w", name, err), db.Close())
	}
	mdb := metadata.NewDB(db, early(cs, filepath.Join(root, "content")), map[string]snapshots.Snapshotter{name: sn})
	s := &Store{DB: mdb, Content: mdb.ContentStore(), Images: metadata.NewImageStore(mdb), Leases: metadata.NewLeaseManager(mdb),
		Snapshots: mdb.Snapshotter(name), SnapshotterName: name, backing: sn}
	if err := mdb.Init(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open image store %s: %w", root, err), s.Close())
	}
	mdb.RegisterMutationCallback(func(bool) { changed() })
	return s, nil
}

// openContent opens the blobs for this user alone: what is in an image is
// nobody else's on this host (CVE-2024-25621).
func openContent(dir string) (content.Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	return local.NewStore(dir)
}

// Close closes the database and the snapshotter.
func (s *Store) Close() error {
	return errors.Join(s.DB.Close(), s.backing.Close())
}

// Context puts our namespace into ctx.
func Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, Namespace)
}

// Lease starts a lease: what is written with the context that it returns stays
// until end, and for PartialTTL if end is told to keep it or is never called.
func (s *Store) Lease(ctx context.Context) (_ context.Context, end func(keep bool), err error) {
	ctx = Context(ctx)
	l, err := s.Leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(PartialTTL))
	if err != nil {
		return nil, nil, fmt.Errorf("start lease: %w", err)
	}
	return leases.WithLease(ctx, l.ID), func(keep bool) {
		if !keep {
			_ = s.Leases.Delete(context.WithoutCancel(ctx), l)
		}
	}, nil
}

// Read returns a whole blob of at most most bytes.
func (s *Store) Read(ctx context.Context, d ocispec.Descriptor, most int64) ([]byte, error) {
	ra, err := s.Content.ReaderAt(Context(ctx), d)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > most {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are allowed: %w", d.Digest, ra.Size(), most, errdefs.ErrInvalidArgument)
	}
	b := make([]byte, ra.Size())
	if _, err := ra.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", d.Digest, err)
	}
	return b, nil
}

// Write stores a small blob; one that is here already stays.
func (s *Store) Write(ctx context.Context, mediaType string, b []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	err := content.WriteBlob(Context(ctx), s.Content, "write-"+d.Digest.String(), bytes.NewReader(b), d)
	if err != nil {
		return d, fmt.Errorf("write %s: %w", d.Digest, err)
	}
	return d, nil
}

// Has tells whether a blob is here.
func (s *Store) Has(ctx context.Context, d digest.Digest) bool {
	_, err := s.Content.Info(Context(ctx), d)
	return err == nil
}

// Keep puts a blob that is here under ctx's lease.
func (s *Store) Keep(ctx context.Context, d digest.Digest) error {
	return s.keep(ctx, leases.Resource{ID: d.String(), Type: "content"})
}

// KeepSnapshot puts a snapshot and its parents under ctx's lease.
func (s *Store) KeepSnapshot(ctx context.Context, key string) error {
	return s.keep(ctx, leases.Resource{ID: key, Type: "snapshots/" + s.SnapshotterName})
}

func (s *Store) keep(ctx context.Context, r leases.Resource) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return nil
	}
	return s.Leases.AddResource(ctx, leases.Lease{ID: id}, r)
}

// Label adds labels to a blob.
func (s *Store) Label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	info := content.Info{Digest: d, Labels: labels}
	paths := make([]string, 0, len(labels))
	for k := range maps.Keys(labels) {
		paths = append(paths, "labels."+k)
	}
	if len(paths) == 0 {
		return nil
	}
	if _, err := s.Content.Update(Context(ctx), info, paths...); err != nil {
		return fmt.Errorf("label %s: %w", d, err)
	}
	return nil
}

// Refer makes the blob parent keep its children from being collected.
func (s *Store) Refer(ctx context.Context, parent digest.Digest, children []ocispec.Descriptor) error {
	labels := map[string]string{}
	counts := map[string]int{}
	for _, c := range children {
		for _, k := range images.ChildGCLabels(c) {
			// A key that ends in a dot wants a number.
			if k[len(k)-1] == '.' {
				n := counts[k]
				counts[k]++
				k = fmt.Sprintf("%s%d", k, n)
			}
			labels[k] = c.Digest.String()
		}
	}
	return s.Label(ctx, parent, labels)
}

// ReferSnapshot makes an image's config keep its topmost snapshot.
func (s *Store) ReferSnapshot(ctx context.Context, config, chain digest.Digest) error {
	return s.Label(ctx, config, map[string]string{"containerd.io/gc.ref.snapshot." + s.SnapshotterName: chain.String()})
}

// Put creates or replaces an image record.
func (s *Store) Put(ctx context.Context, img images.Image) error {
	ctx = Context(ctx)
	_, err := s.Images.Create(ctx, img)
	if errdefs.IsAlreadyExists(err) {
		_, err = s.Images.Update(ctx, img, "target", "labels")
	}
	if err != nil {
		return fmt.Errorf("store image %s: %w", img.Name, err)
	}
	return nil
}

// Abort drops a partial download.
func (s *Store) Abort(ctx context.Context, ref string) {
	_ = s.Content.Abort(Context(context.WithoutCancel(ctx)), ref)
}

// Usage is the size of all blobs and committed snapshots, bytes.
func (s *Store) Usage(ctx context.Context) (int64, error) {
	ctx = Context(ctx)
	var total int64
	err := s.Content.Walk(ctx, func(i content.Info) error {
		total += i.Size
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure blobs: %w", err)
	}
	err = s.Snapshots.Walk(ctx, func(ctx context.Context, i snapshots.Info) error {
		if i.Kind != snapshots.KindCommitted {
			return nil
		}
		u, err := s.Snapshots.Usage(ctx, i.Name)
		if errdefs.IsNotFound(err) {
			return nil
		}
		total += u.Size
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measure layers: %w", err)
	}
	return total, nil
}

package images

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images/store"
)

// rootPrefix starts the snapshot key of a writable layer, where the
// snapshotter keeps them.
const rootPrefix = "caisson-root-"

var rootKey = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// root is what a writable layer stands on. It is stored as roots/<key>/image.
type root struct {
	Image    digest.Digest      `json:"image"`
	Manifest ocispec.Descriptor `json:"manifest"`
	Chain    digest.Digest      `json:"chain"` // "": an image without layers
}

// roots are the writable layers of containers. On Linux each is a directory of
// our own with upper and work, so that preparing one writes three directories
// and a small file and asks no database.
//
// A layer in use outlives its image: Delete puts the chain under a lease,
// which Release of the last user ends.
type roots struct {
	mu     sync.RWMutex // held for writing while an image is deleted
	m      map[string]root
	kept   map[digest.Digest]struct{} // chains under a lease
	lowers memo[[]string]             // by chain id, topmost layer first
}

// Prepare makes a writable root filesystem named key on top of the image,
// unpacking it first where that was not done, and keeps the image's layers
// until Release. It mounts nothing. AlreadyExists if key is taken.
//
// confine, if not nil, is given the directories of the layer before anything is
// in them, to put them under a disk quota.
func (s *Service) Prepare(ctx context.Context, key string, img *Image, confine func(dirs ...string) error) ([]Mount, error) {
	if !rootKey.MatchString(key) {
		return nil, fmt.Errorf("bad name for a root filesystem %q: %w", key, errdefs.ErrInvalidArgument)
	}
	if err := s.ensureUnpacked(ctx, img.Manifest); err != nil {
		return nil, err
	}
	r := root{Image: img.ID, Manifest: img.Manifest, Chain: img.ChainID}
	if !s.overlay {
		if confine != nil {
			return nil, fmt.Errorf("snapshotter %s cannot limit a root filesystem: %w", s.store.SnapshotterName, errdefs.ErrNotImplemented)
		}
		return s.prepareSnapshot(ctx, key, r)
	}
	s.roots.mu.Lock()
	if _, ok := s.roots.m[key]; ok {
		s.roots.mu.Unlock()
		return nil, fmt.Errorf("root filesystem %s: %w", key, errdefs.ErrAlreadyExists)
	}
	// From here on Delete sees that the layers are used.
	s.roots.m[key] = r
	s.roots.mu.Unlock()
	m, err := s.prepareDir(ctx, key, r, confine)
	if err != nil {
		return nil, errors.Join(err, s.Release(ctx, key))
	}
	return m, nil
}

// prepareDir makes the directories. The record comes first: what a crash
// leaves is known by its key in any case.
func (s *Service) prepareDir(ctx context.Context, key string, r root, confine func(dirs ...string) error) ([]Mount, error) {
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	if c.ids[r.Image] == nil {
		return nil, noSuchImage(r.Image.String()) // deleted meanwhile
	}
	dir := s.path("roots", key)
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o710); err != nil {
		return nil, fmt.Errorf("make root filesystem: %w", err)
	}
	err = os.WriteFile(filepath.Join(dir, "image"), b, 0o600)
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "work"), 0o711)
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "upper"), 0o755)
	}
	if err == nil && confine != nil {
		// Not dir itself, which is renamed when it goes: a kernel that keeps quotas
		// moves nothing from one to another.
		err = confine(filepath.Join(dir, "upper"), filepath.Join(dir, "work"))
	}
	if err != nil {
		return nil, fmt.Errorf("make root filesystem: %w", err)
	}
	m, err := s.overlayMounts(ctx, dir, r)
	if err != nil {
		return nil, err
	}
	if lowers, err := s.lowerDirs(ctx, r.Chain); err != nil {
		return nil, err
	} else if len(lowers) > 0 {
		err := copyRootOwner(lowers[0], filepath.Join(dir, "upper"))
		return m, err
	}
	return m, nil
}

// overlayMounts describes the overlay of a root in dir.
func (s *Service) overlayMounts(ctx context.Context, dir string, r root) ([]Mount, error) {
	lowers, err := s.lowerDirs(ctx, r.Chain)
	if err != nil {
		return nil, err
	}
	upper := filepath.Join(dir, "upper")
	if len(lowers) == 0 {
		return []Mount{{Type: "bind", Source: upper, Options: []string{"rbind", "rw"}}}, nil
	}
	return []Mount{{Type: "overlay", Source: "overlay", Options: append([]string{
		"lowerdir=" + strings.Join(lowers, ":"),
		"upperdir=" + upper,
		"workdir=" + filepath.Join(dir, "work"),
	}, overlayOptions()...)}}, nil
}

// lowerDirs are the directories of a chain's layers, topmost first. They are
// remembered until the next garbage collection.
func (s *Service) lowerDirs(ctx context.Context, chain digest.Digest) ([]string, error) {
	if chain == "" {
		return nil, nil
	}
	dirs, gen, ok := s.roots.lowers.load(chain)
	if ok {
		return dirs, nil
	}
	for key := chain.String(); key != ""; {
		i, err := s.store.Snapshots.Stat(store.Context(ctx), key)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", key, err)
		}
		d := i.Labels[store.UpperdirLabel]
		if d == "" {
			return nil, fmt.Errorf("snapshotter %s does not tell where layers are: %w", s.store.SnapshotterName, errdefs.ErrInternal)
		}
		dirs, key = append(dirs, d), i.Parent
	}
	s.roots.lowers.store(chain, dirs, gen)
	return dirs, nil
}

// ensureUnpacked unpacks the layers of a manifest that are not: the image came
// for another platform, or the host crashed before they were on the disk.
func (s *Service) ensureUnpacked(ctx context.Context, d ocispec.Descriptor) error {
	doc, err := s.doc(ctx, d)
	if err != nil {
		return err
	}
	if doc.manifest == nil {
		return fmt.Errorf("%s is no image manifest: %w", d.Digest, errdefs.ErrInvalidArgument)
	}
	c, err := s.config(ctx, doc.manifest)
	if err != nil {
		return err
	}
	if c.OS != "" && c.OS != s.platform.OS {
		return fmt.Errorf("image operating system %q cannot be used on this platform, which is %s: %w", c.OS, s.platform.OS, errdefs.ErrFailedPrecondition)
	}
	chain := identity.ChainID(slices.Clone(c.RootFS.DiffIDs))
	if chain == "" {
		return nil
	}
	if _, _, ok := s.roots.lowers.load(chain); ok {
		return nil
	}
	if _, ok := s.chainSize(ctx, chain); ok {
		return nil
	}
	ctx, end, err := s.store.Lease(ctx)
	if err != nil {
		return err
	}
	defer end(false)
	if err := s.newLayerJob(noFetch, nil, newReporter(nil)).run(ctx, doc.manifest.Layers, c.RootFS.DiffIDs); err != nil {
		return fmt.Errorf("unpack image: %w", err)
	}
	return s.store.ReferSnapshot(ctx, doc.manifest.Config.Digest, chain)
}

// Mounts returns what Prepare returned.
func (s *Service) Mounts(ctx context.Context, key string) ([]Mount, error) {
	if !s.overlay {
		m, err := s.store.Snapshots.Mounts(store.Context(ctx), rootPrefix+key)
		if err != nil {
			return nil, fmt.Errorf("root filesystem %s: %w", key, err)
		}
		return fromContainerd(m), nil
	}
	s.roots.mu.RLock()
	r, ok := s.roots.m[key]
	s.roots.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("root filesystem %s: %w", key, errdefs.ErrNotFound)
	}
	if err := s.ensureUnpacked(ctx, r.Manifest); err != nil {
		return nil, err
	}
	return s.overlayMounts(ctx, s.path("roots", key), r)
}

// Release deletes the writable layer. Idempotent.
func (s *Service) Release(ctx context.Context, key string) error {
	if !rootKey.MatchString(key) {
		return nil
	}
	if !s.overlay {
		err := s.store.Snapshots.Remove(store.Context(ctx), rootPrefix+key)
		if errdefs.IsNotFound(err) {
			return nil
		}
		s.gc.Schedule()
		return wrap("delete root filesystem "+key, err)
	}
	// Files are deleted in the background: a container's end waits for it.
	err := os.Rename(s.path("roots", key), s.path("trash", key+"."+rand.Text()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete root filesystem %s: %w", key, err)
	}
	s.trash.Schedule()
	s.roots.mu.Lock()
	defer s.roots.mu.Unlock()
	r, ok := s.roots.m[key]
	if !ok {
		return nil
	}
	delete(s.roots.m, key)
	if _, ok := s.roots.kept[r.Chain]; !ok || s.roots.uses(r.Chain) {
		return nil
	}
	if err := s.store.Leases.Delete(store.Context(ctx), rootLease(r.Chain)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("let go of the layers below %s: %w", key, err)
	}
	delete(s.roots.kept, r.Chain)
	s.gc.Schedule()
	return nil
}

// uses tells whether any root stands on chain; the caller holds the lock.
func (r *roots) uses(chain digest.Digest) bool {
	for _, v := range r.m {
		if v.Chain == chain {
			return true
		}
	}
	return false
}

func rootLease(chain digest.Digest) leases.Lease {
	return leases.Lease{ID: rootPrefix + chain.Encoded()}
}

// keepForRoots puts what the roots that stand on image id need under leases.
// The caller holds the lock for writing and deletes the image's record next.
func (s *Service) keepForRoots(ctx context.Context, id digest.Digest) error {
	ctx = store.Context(ctx)
	for _, r := range s.roots.m {
		if r.Image != id || r.Chain == "" {
			continue
		}
		l := rootLease(r.Chain)
		if _, err := s.store.Leases.Create(ctx, leases.WithID(l.ID)); err != nil && !errdefs.IsAlreadyExists(err) {
			return fmt.Errorf("keep layers in use: %w", err)
		}
		for _, res := range []leases.Resource{
			{ID: r.Chain.String(), Type: "snapshots/" + s.store.SnapshotterName},
			{ID: r.Manifest.Digest.String(), Type: "content"},
		} {
			if err := s.store.Leases.AddResource(ctx, l, res); err != nil {
				return fmt.Errorf("keep layers in use: %w", err)
			}
		}
		s.roots.kept[r.Chain] = struct{}{}
	}
	return nil
}

// Roots lists the keys of all writable layers, to collect what no record claims.
func (s *Service) Roots(ctx context.Context) ([]string, error) {
	if s.overlay {
		entries, err := os.ReadDir(s.path("roots"))
		if err != nil {
			return nil, fmt.Errorf("list root filesystems: %w", err)
		}
		keys := make([]string, 0, len(entries))
		for _, e := range entries {
			keys = append(keys, e.Name())
		}
		return keys, nil
	}
	var keys []string
	err := s.store.Snapshots.Walk(store.Context(ctx), func(_ context.Context, i snapshots.Info) error {
		if k, ok := strings.CutPrefix(i.Name, rootPrefix); ok {
			keys = append(keys, k)
		}
		return nil
	})
	return keys, wrap("list root filesystems", err)
}

// RootUsage is the size of the writable layer in bytes.
func (s *Service) RootUsage(ctx context.Context, key string) (int64, error) {
	if !s.overlay {
		u, err := s.store.Snapshots.Usage(store.Context(ctx), rootPrefix+key)
		return u.Size, wrap("root filesystem "+key, err)
	}
	u, err := continuity.DiskUsage(ctx, s.path("roots", key, "upper"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("root filesystem %s: %w", key, errdefs.ErrNotFound)
	}
	return u.Size, err
}

// emptyTrash deletes the files of released roots.
func (s *Service) emptyTrash(ctx context.Context) error {
	entries, err := os.ReadDir(s.path("trash"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			break // the next engine goes on
		}
		err = errors.Join(err, removeRoot(s.path("trash", e.Name())))
	}
	return err
}

// restoreRoots reads the records of an earlier process.
func (s *Service) restoreRoots(ctx context.Context) error {
	s.roots.m, s.roots.kept = map[string]root{}, map[digest.Digest]struct{}{}
	if !s.overlay {
		return nil
	}
	for _, d := range []string{"roots", "trash"} {
		// Closed to users of the host: what containers write belongs to somebody,
		// and every mount's path can be read in /proc.
		err := os.MkdirAll(s.path(d), 0o710)
		if err == nil {
			err = os.Chmod(s.path(d), 0o710)
		}
		if err != nil {
			return fmt.Errorf("make image store: %w", err)
		}
	}
	s.trash.Schedule()
	keys, err := s.Roots(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		var r root
		b, err := os.ReadFile(s.path("roots", k, "image"))
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err != nil {
			// Killed while making or deleting it: the engine's records do not
			// claim it, and Release of the listed key deletes it.
			s.log.Warn("root filesystem is incomplete", "key", k, "error", err)
			continue
		}
		s.roots.m[k] = r
	}
	ls, err := s.store.Leases.List(store.Context(ctx))
	if err != nil {
		return wrap("list leases", err)
	}
	for _, l := range ls {
		hex, ok := strings.CutPrefix(l.ID, rootPrefix)
		if !ok {
			continue
		}
		if c := digest.NewDigestFromEncoded(digest.SHA256, hex); s.roots.uses(c) {
			s.roots.kept[c] = struct{}{}
		} else if err := s.store.Leases.Delete(store.Context(ctx), l); err != nil {
			return wrap("end lease", err)
		}
	}
	return nil
}

// prepareSnapshot makes the writable layer with the snapshotter.
func (s *Service) prepareSnapshot(ctx context.Context, key string, r root) ([]Mount, error) {
	m, err := s.store.Snapshots.Prepare(store.Context(ctx), rootPrefix+key, r.Chain.String(),
		snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "caisson"}))
	if err != nil {
		return nil, fmt.Errorf("root filesystem %s: %w", key, err)
	}
	return fromContainerd(m), nil
}

func fromContainerd(ms []mount.Mount) []Mount {
	out := make([]Mount, len(ms))
	for i, m := range ms {
		out[i] = Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	return out
}

package images

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/caisson-engine/caisson/images/store"
	"github.com/caisson-engine/caisson/images/unpack"
)

// extractPrefix starts the key of a snapshot that is being unpacked. What has
// such a key when the engine starts was left by one that was killed.
const extractPrefix = "caisson-extract-"

// fetcher downloads a blob from offset on; see registry.Repo.Fetch.
type fetcher func(ctx context.Context, d ocispec.Descriptor, offset int64, write func([]byte) error) error

// noFetch is the fetcher of an image that is all here.
func noFetch(_ context.Context, d ocispec.Descriptor, _ int64, _ func([]byte) error) error {
	return fmt.Errorf("blob %s is missing: %w", d.Digest, errdefs.ErrNotFound)
}

// layerJob brings the layers of one image here and unpacks them.
type layerJob struct {
	s      *Service
	fetch  fetcher
	labels map[string]string // of the blobs
	report *reporter
	words  words
	os     string // what the image runs on; another's is not unpacked
	budget *unpack.Budget
	slots  *semaphore.Weighted
}

// words are the states of a layer as a client sees them; "" is not reported.
type words struct {
	start, extract, exists, done string
}

var (
	pullWords = words{start: "Pulling fs layer", extract: "Extracting", exists: "Already exists", done: "Pull complete"}
	loadWords = words{extract: "Loading layer"}
)

// state reports one of the words.
func (j *layerJob) state(d ocispec.Descriptor, word string) {
	if word != "" {
		j.report.line(short(d.Digest), word)
	}
}

// unpacked is a layer in a directory of its own, not yet part of a chain.
type unpacked struct {
	key     string // active snapshot, "" if there is nothing to commit
	dir     string
	implied []string
}

func (s *Service) newLayerJob(fetch fetcher, labels map[string]string, r *reporter) *layerJob {
	return &layerJob{s: s, fetch: fetch, labels: labels, report: r, budget: s.budget(), slots: semaphore.NewWeighted(int64(s.cfg.MaxConcurrentDownloads))}
}

// run downloads and unpacks all layers side by side, then links the unpacked
// ones into a chain in order. ctx carries the lease. On failure nothing that
// was unpacked here remains; downloads remain if a later try may use them.
func (j *layerJob) run(ctx context.Context, layers []ocispec.Descriptor, diffIDs []digest.Digest) error {
	chains := identity.ChainIDs(append([]digest.Digest(nil), diffIDs...))
	if len(chains) > 0 {
		unlock, err := j.s.chains.lock(ctx, chains[len(chains)-1].String())
		if err != nil {
			return err
		}
		defer unlock()
	}
	first, err := j.s.firstMissing(ctx, chains)
	if err != nil {
		return err
	}
	if j.os != "" && j.os != j.s.platform.OS {
		first = len(layers)
	}
	if err := j.s.markUnsynced(chains[first:]); err != nil {
		return err
	}
	defer j.s.syncer.Schedule()
	g, gctx := errgroup.WithContext(ctx)
	results := make([]chan unpacked, len(layers))
	for i := range layers {
		results[i] = make(chan unpacked, 1)
		j.state(layers[i], j.words.start)
	}
	g.Go(func() error {
		for i := range layers {
			if err := j.slots.Acquire(gctx, 1); err != nil {
				return context.Cause(gctx)
			}
			g.Go(func() error {
				defer j.slots.Release(1)
				u, err := j.layer(gctx, layers[i], diffIDs[i], i >= first)
				if err != nil {
					return wrap("layer "+short(layers[i].Digest), err)
				}
				results[i] <- u
				return nil
			})
		}
		return nil
	})
	g.Go(func() error {
		for i := first; i < len(layers); i++ {
			var u unpacked
			select {
			case u = <-results[i]:
			case <-gctx.Done():
				return context.Cause(gctx)
			}
			parent := digest.Digest("")
			if i > 0 {
				parent = chains[i-1]
			}
			if err := j.commit(gctx, u, layers[i], diffIDs[i], chains[i], parent); err != nil {
				return wrap("layer "+short(layers[i].Digest), err)
			}
			j.state(layers[i], j.words.done)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		for _, r := range results {
			select {
			case u := <-r:
				j.s.discard(ctx, u.key)
			default:
			}
		}
		return err
	}
	return nil
}

// firstMissing is the index of the first layer that is not unpacked. Those
// that are are kept by ctx's lease.
func (s *Service) firstMissing(ctx context.Context, chains []digest.Digest) (int, error) {
	for i := len(chains); i > 0; i-- {
		// Kept before it is looked for: a collection may be about to take it.
		if err := s.store.KeepSnapshot(ctx, chains[i-1].String()); err != nil {
			return 0, err
		}
		_, err := s.store.Snapshots.Stat(ctx, chains[i-1].String())
		if errdefs.IsNotFound(err) {
			continue
		}
		return i, err
	}
	return 0, nil
}

// layer downloads one layer unless it is here, and unpacks it if it is to.
// Overlay layers unpack from the same bytes as they arrive.
func (j *layerJob) layer(ctx context.Context, d ocispec.Descriptor, diffID digest.Digest, toUnpack bool) (u unpacked, err error) {
	s := j.s
	unlock, err := s.blobs.lock(ctx, d.Digest.String())
	if err != nil {
		return u, err
	}
	defer unlock()
	ref := "layer-" + d.Digest.String()
	w, err := s.store.Content.Writer(ctx, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{Digest: d.Digest, Size: d.Size, MediaType: d.MediaType}))
	toUnpack = toUnpack && s.overlay
	if errdefs.IsAlreadyExists(err) {
		if !toUnpack {
			j.state(d, j.words.exists)
			return u, s.store.Label(ctx, d.Digest, j.labels)
		}
		return j.unpackStored(ctx, d, diffID)
	}
	if err != nil {
		return u, fmt.Errorf("start download: %w", err)
	}
	defer func() {
		w.Close()
		if err != nil && !worthKeeping(err) {
			s.store.Abort(ctx, ref)
		}
	}()
	st, err := w.Status()
	if err != nil {
		return u, err
	}
	if st.Offset > d.Size {
		return u, fmt.Errorf("partial download is longer than the blob, %d of %d bytes: %w", st.Offset, d.Size, errdefs.ErrInvalidArgument)
	}
	if st.Offset > 0 || !toUnpack {
		// What was downloaded before did not pass by here: unpack afterwards.
		if err := j.download(ctx, d, st.Offset, w, nil); err != nil {
			return u, err
		}
		if toUnpack {
			return j.unpackStored(ctx, d, diffID)
		}
		return u, nil
	}
	return j.downloadAndUnpack(ctx, d, diffID, w)
}

// worthKeeping tells whether a failed download may be taken up again: it was
// interrupted, and what is here is not known to be bad.
func worthKeeping(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errdefs.IsUnavailable(err)
}

// download fetches the rest of a blob and commits it. tee, if not nil, sees
// the same bytes.
func (j *layerJob) download(ctx context.Context, d ocispec.Descriptor, offset int64, w content.Writer, tee io.Writer) error {
	id, n := short(d.Digest), offset
	if offset < d.Size {
		err := j.fetch(ctx, d, offset, func(b []byte) error {
			if _, err := w.Write(b); err != nil {
				return err
			}
			n += int64(len(b))
			j.report.bytes(id, "Downloading", n, d.Size)
			if tee == nil {
				return nil
			}
			_, err := tee.Write(b)
			return err
		})
		if err != nil {
			return err
		}
	}
	if n != d.Size {
		return fmt.Errorf("blob has %d bytes, %d were announced: %w", n, d.Size, errdefs.ErrInvalidArgument)
	}
	j.report.line(id, "Verifying Checksum")
	if got := w.Digest(); got != d.Digest {
		return fmt.Errorf("blob does not match its digest: %s arrived as %s: %w", d.Digest, got, errdefs.ErrInvalidArgument)
	}
	err := w.Commit(ctx, d.Size, d.Digest, content.WithLabels(j.labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("store blob: %w", err)
	}
	j.report.line(id, "Download complete")
	return nil
}

func (j *layerJob) downloadAndUnpack(ctx context.Context, d ocispec.Descriptor, diffID digest.Digest, w content.Writer) (u unpacked, err error) {
	// Canceling what is left when either side fails keeps neither waiting.
	g, ctx := errgroup.WithContext(ctx)
	pipe := unpack.NewPipe(ctx)
	g.Go(func() (err error) {
		u, err = j.unpack(ctx, pipe, d, diffID)
		return errors.Join(err, pipe.Close())
	})
	var fetchErr error
	g.Go(func() error {
		fetchErr = j.download(ctx, d, 0, w, pipe)
		pipe.CloseWrite(fetchErr)
		if errors.Is(fetchErr, io.ErrClosedPipe) {
			return nil // the other side says why
		}
		return fetchErr
	})
	if err := g.Wait(); err != nil {
		j.s.discard(ctx, u.key)
		return unpacked{}, err
	}
	return u, nil
}

// unpackStored unpacks a layer that is here.
func (j *layerJob) unpackStored(ctx context.Context, d ocispec.Descriptor, diffID digest.Digest) (unpacked, error) {
	ra, err := j.s.store.Content.ReaderAt(ctx, d)
	if err != nil {
		return unpacked{}, err
	}
	defer ra.Close()
	r := &countingReader{r: io.NewSectionReader(ra, 0, ra.Size()), f: func(n int64) {
		if j.words.extract != "" {
			j.report.bytes(short(d.Digest), j.words.extract, n, d.Size)
		}
	}}
	return j.unpack(ctx, r, d, diffID)
}

// countingReader tells how much was read.
type countingReader struct {
	r io.Reader
	n int64
	f func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.f(c.n)
	return n, err
}

// unpack writes a layer into a new snapshot without a parent.
func (j *layerJob) unpack(ctx context.Context, r io.Reader, d ocispec.Descriptor, diffID digest.Digest) (_ unpacked, err error) {
	u, err := j.s.newLayerDir(ctx)
	if err != nil {
		return u, err
	}
	defer func() {
		if err != nil {
			j.s.discard(ctx, u.key)
		}
	}()
	res, err := unpack.Overlay(ctx, r, u.dir, j.options())
	if err != nil {
		return unpacked{}, err
	}
	if res.DiffID != diffID {
		return unpacked{}, wrongDiffID(diffID, res.DiffID)
	}
	u.implied = res.Implied
	if j.words.extract != "" {
		j.report.send(Update{ID: short(d.Digest), Status: j.words.extract, Current: d.Size, Total: d.Size})
	}
	return u, nil
}

func wrongDiffID(want, got digest.Digest) error {
	return fmt.Errorf("unpacked layer does not match the image config: expected %s, is %s: %w", want, got, errdefs.ErrInvalidArgument)
}

func (j *layerJob) options() unpack.Options {
	return unpack.Options{Decompressor: j.s.unzip, Budget: j.budget, Entries: j.s.cfg.Limits.Entries}
}

// newLayerDir prepares a snapshot without a parent and tells its directory.
func (s *Service) newLayerDir(ctx context.Context) (unpacked, error) {
	key := extractPrefix + rand.Text()
	mounts, err := s.store.Snapshots.Prepare(ctx, key, "")
	if err != nil {
		return unpacked{}, fmt.Errorf("prepare layer: %w", err)
	}
	u := unpacked{key: key}
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		s.discard(ctx, key)
		return unpacked{}, fmt.Errorf("snapshotter %s gives no directory for a layer: %w", s.store.SnapshotterName, errdefs.ErrInternal)
	}
	u.dir = mounts[0].Source
	return u, nil
}

// discard drops a snapshot that was not finished; its files go at the next
// collection.
func (s *Service) discard(ctx context.Context, key string) {
	if key == "" {
		return
	}
	err := s.store.Snapshots.Remove(context.WithoutCancel(ctx), key)
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("unfinished layer stays until the engine restarts", "key", key, "error", err)
	}
	s.gc.Schedule()
}

// commit makes an unpacked layer the chain's next. Where layers cannot unpack
// by themselves it is unpacked here, over its parent.
func (j *layerJob) commit(ctx context.Context, u unpacked, d ocispec.Descriptor, diffID, chain, parent digest.Digest) (err error) {
	s := j.s
	if !s.overlay {
		if u, err = j.apply(ctx, d, diffID, parent); err != nil {
			return err
		}
	} else if parent != "" && len(u.implied) > 0 {
		lowers, err := s.lowerDirs(ctx, parent)
		if err == nil {
			err = unpack.Adopt(u.dir, lowers, u.implied)
		}
		if err != nil {
			s.discard(ctx, u.key)
			return err
		}
	}
	var opts []snapshots.Opt
	if parent != "" && s.overlay {
		opts = append(opts, snapshots.WithParent(parent.String()))
	}
	err = s.store.Snapshots.Commit(ctx, chain.String(), u.key, opts...)
	if err != nil {
		s.discard(ctx, u.key)
	}
	if errdefs.IsAlreadyExists(err) {
		return nil // another image has it too, and was faster
	}
	return wrap("commit", err)
}

// apply unpacks a stored layer over its parent.
func (j *layerJob) apply(ctx context.Context, d ocispec.Descriptor, diffID, parent digest.Digest) (_ unpacked, err error) {
	s, u := j.s, unpacked{key: extractPrefix + rand.Text()}
	mounts, err := s.store.Snapshots.Prepare(ctx, u.key, parent.String())
	if err != nil {
		return u, fmt.Errorf("prepare layer: %w", err)
	}
	defer func() {
		if err != nil {
			s.discard(ctx, u.key)
		}
	}()
	if len(mounts) != 1 {
		return u, fmt.Errorf("snapshotter %s gives no directory for a layer: %w", s.store.SnapshotterName, errdefs.ErrInternal)
	}
	ra, err := s.store.Content.ReaderAt(ctx, d)
	if err != nil {
		return u, err
	}
	defer ra.Close()
	res, err := unpack.Apply(ctx, io.NewSectionReader(ra, 0, ra.Size()), mounts[0].Source, j.options())
	if err == nil && res.DiffID != diffID {
		err = wrongDiffID(diffID, res.DiffID)
	}
	return u, err
}

// sweep collects what a killed engine was unpacking.
func (s *Service) sweep(ctx context.Context) error {
	ctx = store.Context(ctx)
	var keys []string
	err := s.store.Snapshots.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindActive && len(i.Name) > len(extractPrefix) && i.Name[:len(extractPrefix)] == extractPrefix {
			keys = append(keys, i.Name)
		}
		return nil
	})
	if err != nil {
		return wrap("look for unfinished layers", err)
	}
	for _, k := range keys {
		s.discard(ctx, k)
	}
	return nil
}

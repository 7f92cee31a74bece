package images

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/caisson-engine/caisson/images/ref"
	"github.com/caisson-engine/caisson/images/unpack"
)

// Commit makes an image of a base and one more layer, an uncompressed tar with
// whiteouts. One pass compresses, hashes and unpacks it.
func (s *Service) Commit(ctx context.Context, o CommitOptions, layer io.Reader) (*Image, error) {
	c := DockerConfig{}
	c.Platform = s.platform
	var layers []ocispec.Descriptor
	if o.Base != "" {
		base, err := s.Get(ctx, o.Base.String(), o.Platform)
		if err != nil {
			return nil, err
		}
		doc, err := s.doc(ctx, base.Manifest)
		if err != nil {
			return nil, err
		}
		layers = append(layers, doc.manifest.Layers...)
		c.Platform, c.RootFS, c.History, c.OSFeature = base.Config.Platform, base.Config.RootFS, base.Config.History, base.Config.OSFeature
		if err := s.ensureUnpacked(ctx, base.Manifest); err != nil {
			return nil, err
		}
	} else if o.Platform != nil {
		c.Platform = *o.Platform
	}
	if len(layers) >= maxLayers {
		return nil, fmt.Errorf("max depth exceeded: image has %d layers already: %w", len(layers), errdefs.ErrFailedPrecondition)
	}
	c.Config, c.Author, c.Comment = o.Config, o.Author, o.Comment
	step := ocispec.History{CreatedBy: o.CreatedBy, Author: o.Author, Comment: o.Comment}
	return s.build(ctx, &c, layers, layer, true, step, o.Ref, o.Base)
}

// Import makes an image of a bare root filesystem: a tar, plain or compressed
// with gzip or zstd.
func (s *Service) Import(ctx context.Context, r io.Reader, o ImportOptions) (*Image, error) {
	c := DockerConfig{Comment: o.Message}
	c.Platform = s.platform
	if o.Platform != nil {
		c.Platform = *o.Platform
	}
	if o.Config != nil {
		c.Config = *o.Config
	}
	return s.build(ctx, &c, nil, r, false, ocispec.History{Comment: o.Message}, o.Ref, "")
}

// build adds a layer to an image's config and layers and stores the result
// under name, or as a dangling image.
func (s *Service) build(ctx context.Context, c *DockerConfig, layers []ocispec.Descriptor, r io.Reader, zip bool, step ocispec.History, name string, parent digest.Digest) (*Image, error) {
	stored := ""
	if name != "" {
		n, err := ref.ParseTag(name)
		if err != nil {
			return nil, err
		}
		stored = n.String()
	}
	owner := ctx
	ctx, end, err := s.store.Lease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		end(false)
		s.gc.Schedule()
	}()
	j := s.newLayerJob(noFetch, nil, newReporter(nil))
	d, diffID, u, err := j.add(ctx, r, zip)
	if err != nil {
		return nil, err
	}
	below := identity.ChainID(append([]digest.Digest(nil), c.RootFS.DiffIDs...))
	c.RootFS.Type = "layers"
	c.RootFS.DiffIDs = append(c.RootFS.DiffIDs[:len(c.RootFS.DiffIDs):len(c.RootFS.DiffIDs)], diffID)
	chain := identity.ChainID(append([]digest.Digest(nil), c.RootFS.DiffIDs...))
	err = s.markUnsynced([]digest.Digest{chain})
	if err != nil {
		s.discard(ctx, u.key)
		return nil, err
	}
	defer s.syncer.Schedule()
	if err := j.commit(ctx, u, d, diffID, chain, below); err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	c.Created, step.Created = &now, &now
	c.History = append(c.History[:len(c.History):len(c.History)], step)
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: append(layers, d),
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if m.Config, err = s.store.Write(ctx, ocispec.MediaTypeImageConfig, b); err != nil {
		return nil, err
	}
	target, err := s.writeJSON(ctx, m.MediaType, m)
	if err != nil {
		return nil, err
	}
	if err := s.link(ctx, target, &m, c); err != nil {
		return nil, err
	}
	labels := map[string]string{}
	if parent != "" {
		labels[labelParent] = parent.String()
	}
	if stored == "" {
		stored = ref.Dangling(target.Digest)
	}
	if err := s.record(ctx, stored, target, labels); err != nil {
		return nil, err
	}
	return s.Get(owner, target.Digest.String(), nil)
}

// add stores a layer that comes as a stream, compressed here if zip, and
// unpacks it into a directory of its own.
func (j *layerJob) add(ctx context.Context, r io.Reader, zip bool) (d ocispec.Descriptor, diffID digest.Digest, u unpacked, err error) {
	s := j.s
	key := "layer-" + rand.Text()
	w, err := s.store.Content.Writer(ctx, content.WithRef(key))
	if err != nil {
		return d, "", u, fmt.Errorf("store layer: %w", err)
	}
	defer func() {
		w.Close()
		if err != nil {
			s.store.Abort(ctx, key)
			s.discard(ctx, u.key)
		}
	}()
	if s.overlay {
		if u, err = s.newLayerDir(ctx); err != nil {
			return d, "", u, err
		}
	}
	var res unpack.Result
	g, gctx := errgroup.WithContext(ctx)
	pipe := unpack.NewPipe(gctx)
	g.Go(func() (err error) {
		defer func() { err = errors.Join(err, pipe.Close()) }()
		if s.overlay {
			res, err = unpack.Overlay(gctx, pipe, u.dir, j.options())
		} else {
			res, err = unpack.Digest(gctx, pipe, j.options())
		}
		return err
	})
	g.Go(func() error {
		err := tee(w, pipe, r, zip, j.budget)
		pipe.CloseWrite(err)
		if errors.Is(err, io.ErrClosedPipe) {
			return nil // the other side says why
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return d, "", u, err
	}
	st, err := w.Status()
	if err != nil {
		return d, "", u, err
	}
	d = ocispec.Descriptor{MediaType: layerTypes[res.Compression], Digest: w.Digest(), Size: st.Offset}
	if zip {
		d.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	err = w.Commit(ctx, d.Size, d.Digest)
	if errdefs.IsAlreadyExists(err) {
		err = s.store.Keep(ctx, d.Digest)
	}
	if err != nil {
		return d, "", u, fmt.Errorf("store layer: %w", err)
	}
	u.implied = res.Implied
	return d, res.DiffID, u, nil
}

// tee copies r to a pipe and to a blob, compressed if zip. What the blob takes
// counts against the budget.
func tee(blob io.Writer, pipe io.Writer, r io.Reader, zip bool, budget *unpack.Budget) error {
	out := io.Writer(&paid{blob, budget})
	var z *gzip.Writer
	if zip {
		var err error
		if z, err = gzip.NewWriterLevel(out, gzip.BestSpeed); err != nil {
			return err
		}
		out = z
	}
	buf := make([]byte, 256<<10)
	n, err := io.CopyBuffer(io.MultiWriter(out, pipe), struct{ io.Reader }{r}, buf)
	if err == nil && n == 0 {
		err = fmt.Errorf("root filesystem archive is empty: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	if z != nil {
		return z.Close()
	}
	return nil
}

// paid draws on a budget for what is written.
type paid struct {
	w io.Writer
	b *unpack.Budget
}

func (p *paid) Write(b []byte) (int, error) {
	if err := p.b.Take(int64(len(b))); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}

package images

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images/archive"
	"github.com/caisson-engine/caisson/images/ref"
	"github.com/caisson-engine/caisson/images/unpack"
)

// Load stores the images of an archive, Docker's or OCI's, compressed or not,
// and unpacks those for the platform (nil: the host's). On failure nothing of
// it stays.
func (s *Service) Load(ctx context.Context, r io.Reader, platform *ocispec.Platform, p Progress) ([]Loaded, error) {
	return s.load(ctx, r, loadOptions{platform: platform}, newReporter(p))
}

// loadOptions direct a load.
type loadOptions struct {
	platform *ocispec.Platform
	name     string // stored name in place of the archive's
	labels   map[string]string
}

// found is an image of an archive.
type found struct {
	target ocispec.Descriptor
	names  []string // stored names; none: dangling
}

func (s *Service) load(ctx context.Context, r io.Reader, o loadOptions, rep *reporter) (_ []Loaded, err error) {
	ctx, end, err := s.store.Lease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		end(false)
		s.gc.Schedule() // the archive may hold more than its images
	}()
	dec, _, err := s.unzip.Open(ctx, r)
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	budget := s.budget()
	a, err := archive.Read(ctx, dec, func(ctx context.Context, r io.Reader, size int64, want digest.Digest) (archive.Blob, error) {
		if err := budget.Take(size); err != nil {
			return archive.Blob{}, err
		}
		return s.ingest(ctx, r, size, want)
	})
	if err != nil {
		return nil, err
	}
	images, err := s.imagesOf(ctx, a)
	if err != nil {
		return nil, err
	}
	var out []Loaded
	for _, f := range images {
		if err := s.adopt(ctx, f.target, o.platform, rep); err != nil {
			return nil, err
		}
	}
	for _, f := range images {
		if o.name != "" {
			f.names = []string{o.name}
		}
		if len(f.names) == 0 {
			if err := s.record(ctx, ref.Dangling(f.target.Digest), f.target, o.labels); err != nil {
				return out, err
			}
			out = append(out, Loaded{ID: f.target.Digest})
		}
		for _, n := range f.names {
			if err := s.record(ctx, n, f.target, o.labels); err != nil {
				return out, err
			}
			out = append(out, Loaded{Name: familiar(n), ID: f.target.Digest})
		}
	}
	return out, nil
}

// ingest stores a blob that comes as a stream. ctx carries the lease.
func (s *Service) ingest(ctx context.Context, r io.Reader, size int64, want digest.Digest) (_ archive.Blob, err error) {
	key := "load-" + rand.Text()
	w, err := s.store.Content.Writer(ctx, content.WithRef(key), content.WithDescriptor(ocispec.Descriptor{Digest: want, Size: size}))
	if errdefs.IsAlreadyExists(err) {
		_, err := io.Copy(io.Discard, r)
		return archive.Blob{Digest: want, Size: size}, err
	}
	if err != nil {
		return archive.Blob{}, fmt.Errorf("store blob: %w", err)
	}
	defer func() {
		w.Close()
		if err != nil {
			s.store.Abort(ctx, key)
		}
	}()
	// A blob that was deleted and not collected yet is there to begin with.
	st, err := w.Status()
	if err != nil {
		return archive.Blob{}, fmt.Errorf("store blob: %w", err)
	}
	if _, err := io.CopyN(io.Discard, r, st.Offset); err != nil {
		return archive.Blob{}, err
	}
	buf := make([]byte, 256<<10)
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf)
	if err != nil {
		return archive.Blob{}, err
	}
	if n += st.Offset; n != size {
		return archive.Blob{}, io.ErrUnexpectedEOF
	}
	got := w.Digest()
	if want != "" && got != want {
		return archive.Blob{}, fmt.Errorf("blob does not match its digest: %s is %s: %w", want, got, errdefs.ErrInvalidArgument)
	}
	err = w.Commit(ctx, size, got)
	if errdefs.IsAlreadyExists(err) {
		err = s.store.Keep(ctx, got)
	}
	return archive.Blob{Digest: got, Size: size}, err
}

// imagesOf lists an archive's images. An OCI index tells more than Docker's
// manifest.json, whose names are added to it.
func (s *Service) imagesOf(ctx context.Context, a *archive.Archive) ([]found, error) {
	if a.Index == nil {
		return s.dockerImages(ctx, a)
	}
	var out []found
	for _, d := range a.Index.Manifests {
		if isAttestation(d) {
			continue
		}
		if err := checkDescriptors([]ocispec.Descriptor{d}); err != nil {
			return nil, err
		}
		f := found{target: d}
		doc, err := s.doc(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("image %s of the archive: %w", short(d.Digest), err)
		}
		fixTarget(&f.target, doc)
		if n := annotatedName(d.Annotations); n != "" {
			f.names = append(f.names, n)
		}
		i := slices.IndexFunc(out, func(o found) bool { return o.target.Digest == d.Digest })
		if i >= 0 {
			out[i].names = append(out[i].names, f.names...)
			continue
		}
		out = append(out, f)
	}
	for i := range out {
		vs, err := s.variants(ctx, out[i].target)
		if err != nil {
			return nil, err
		}
		for _, img := range a.Docker {
			b, err := a.File(img.Config)
			if err != nil {
				return nil, err
			}
			if !slices.ContainsFunc(vs, func(v variant) bool { return v.manifest != nil && v.manifest.Config.Digest == b.Digest }) {
				continue
			}
			names, err := storedNames(img.RepoTags)
			if err != nil {
				return nil, err
			}
			out[i].names = append(out[i].names, names...)
		}
		slices.Sort(out[i].names)
		out[i].names = slices.Compact(out[i].names)
	}
	return out, nil
}

// annotatedName is the stored name that an OCI layout gives an image. A bare
// tag is no name.
func annotatedName(a map[string]string) string {
	text := cmp.Or(a[archive.AnnotationName], a[archive.AnnotationTag])
	if !strings.ContainsAny(text, "/:") {
		return ""
	}
	n, err := ref.ParseTag(text)
	if err != nil {
		return ""
	}
	return n.String()
}

func storedNames(tags []string) ([]string, error) {
	var out []string
	for _, t := range tags {
		n, err := ref.ParseTag(t)
		if err != nil {
			return nil, fmt.Errorf("archive names an image %.200q: %w", t, err)
		}
		out = append(out, n.String())
	}
	return out, nil
}

// layerTypes are the media types of layers by compression.
var layerTypes = map[unpack.Compression]string{
	unpack.None: ocispec.MediaTypeImageLayer,
	unpack.Gzip: ocispec.MediaTypeImageLayerGzip,
	unpack.Zstd: ocispec.MediaTypeImageLayerZstd,
}

// dockerImages makes manifests for the images of a classic archive.
func (s *Service) dockerImages(ctx context.Context, a *archive.Archive) ([]found, error) {
	var out []found
	for _, img := range a.Docker {
		if len(img.Layers) > maxLayers {
			return nil, fmt.Errorf("max depth exceeded: image has %d layers, at most %d are allowed: %w", len(img.Layers), maxLayers, errdefs.ErrInvalidArgument)
		}
		config, err := a.File(img.Config)
		if err != nil {
			return nil, err
		}
		m := ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: config.Digest, Size: config.Size},
			Layers: []ocispec.Descriptor{},
		}
		for _, l := range img.Layers {
			b, err := a.File(l)
			if err != nil {
				return nil, err
			}
			mt, err := s.layerType(ctx, b)
			if err != nil {
				return nil, fmt.Errorf("layer %.200q: %w", l, err)
			}
			m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: mt, Digest: b.Digest, Size: b.Size})
		}
		if _, err := s.config(ctx, &m); err != nil {
			return nil, err
		}
		names, err := storedNames(img.RepoTags)
		if err != nil {
			return nil, err
		}
		target, err := s.writeJSON(ctx, m.MediaType, m)
		if err != nil {
			return nil, err
		}
		out = append(out, found{target: target, names: names})
	}
	return out, nil
}

func (s *Service) writeJSON(ctx context.Context, mediaType string, v any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.store.Write(ctx, mediaType, b)
}

// layerType looks at a stored layer's first bytes.
func (s *Service) layerType(ctx context.Context, b archive.Blob) (string, error) {
	ra, err := s.store.Content.ReaderAt(ctx, ocispec.Descriptor{Digest: b.Digest, Size: b.Size})
	if err != nil {
		return "", err
	}
	defer ra.Close()
	c, _, err := unpack.Detect(io.NewSectionReader(ra, 0, min(ra.Size(), 512)))
	return layerTypes[c], err
}

// adopt links the stored blobs of an image to each other and unpacks the
// variant for the platform. An image for other platforms only is kept as it is.
func (s *Service) adopt(ctx context.Context, target ocispec.Descriptor, platform *ocispec.Platform, rep *reporter) error {
	if err := s.linkIndexes(ctx, target); err != nil {
		return err
	}
	vs, err := s.variants(ctx, target)
	if err != nil {
		return err
	}
	sizes := make([]usage, len(vs))
	have := false
	for i := range vs {
		v := &vs[i]
		if v.manifest == nil || v.config == nil {
			continue
		}
		if err := checkLayers(v.manifest); err != nil {
			return err
		}
		sizes[i] = s.usage(ctx, v)
		have = have || sizes[i].available
		err := s.store.Refer(ctx, v.desc.Digest, append([]ocispec.Descriptor{v.manifest.Config}, v.manifest.Layers...))
		if err != nil {
			return err
		}
	}
	if !have {
		return fmt.Errorf("archive lacks blobs of image %s: no platform is complete: %w", short(target.Digest), errdefs.ErrInvalidArgument)
	}
	i := s.choose(vs, sizes, platform)
	if i < 0 {
		return fmt.Errorf("archive does not provide the specified platform: %w", errdefs.ErrNotFound)
	}
	v := &vs[i]
	if !sizes[i].available || v.config.OS != s.platform.OS {
		return nil
	}
	j := s.newLayerJob(noFetch, nil, rep)
	j.words = loadWords
	if err := j.run(ctx, v.manifest.Layers, v.config.RootFS.DiffIDs); err != nil {
		return err
	}
	return s.link(ctx, v.desc, v.manifest, v.config)
}

// linkIndexes makes a target and the indexes below it keep what they list.
func (s *Service) linkIndexes(ctx context.Context, target ocispec.Descriptor) error {
	level := []ocispec.Descriptor{target}
	for range maxNesting {
		var next []ocispec.Descriptor
		for _, d := range level {
			doc, err := s.doc(ctx, d)
			if errdefs.IsNotFound(err) || err == nil && doc.index == nil {
				continue
			}
			if err != nil {
				return err
			}
			if err := s.store.Refer(ctx, d.Digest, doc.index.Manifests); err != nil {
				return err
			}
			next = append(next, doc.index.Manifests...)
		}
		if level = next; len(level) > maxEntries {
			return fmt.Errorf("image has more than %d manifests: %w", maxEntries, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images/archive"
	"github.com/caisson-engine/caisson/images/ref"
)

// Save writes images as one archive that Docker, of any age, and OCI tools
// read. A name without a tag means all its tags. With a platform only that is
// saved, else all that are here.
func (s *Service) Save(ctx context.Context, refs []string, platform *ocispec.Platform, w io.Writer) error {
	sel, err := s.selection(ctx, refs, platform)
	if err != nil {
		return err
	}
	a, err := archive.NewWriter(w)
	if err != nil {
		return err
	}
	var index []ocispec.Descriptor
	var docker []archive.DockerImage
	for _, x := range sel {
		vs, err := s.variants(ctx, x.target)
		if err != nil {
			return err
		}
		sizes := make([]usage, len(vs))
		blobs, err := s.indexBlobs(ctx, x.target)
		if err != nil {
			return err
		}
		for i := range vs {
			sizes[i] = s.usage(ctx, &vs[i])
		}
		best := s.choose(vs, sizes, platform)
		if best < 0 || !sizes[best].available {
			return fmt.Errorf("image %s is not complete here for the platform: pull it first: %w", short(x.target.Digest), errdefs.ErrNotFound)
		}
		target := x.target
		for i := range vs {
			if !sizes[i].available || platform != nil && i != best {
				continue
			}
			blobs = append(append(append(blobs, vs[i].desc), vs[i].manifest.Config), vs[i].manifest.Layers...)
		}
		if platform != nil {
			target = vs[best].desc
			blobs = slices.DeleteFunc(blobs, func(d ocispec.Descriptor) bool { return d.Digest == x.target.Digest && d.Digest != target.Digest })
		}
		if err := s.writeBlobs(ctx, a, blobs); err != nil {
			return err
		}
		index = append(index, named(target, x.names)...)
		docker = addDocker(docker, &vs[best], x.names)
	}
	return a.Close(index, docker)
}

// selection finds what to save: each target once, with the names asked for.
func (s *Service) selection(ctx context.Context, refs []string, platform *ocispec.Platform) ([]found, error) {
	if len(refs) == 0 {
		return nil, fmt.Errorf("no image to save: %w", errdefs.ErrInvalidArgument)
	}
	var out []found
	add := func(e *entry, names ...string) {
		names = slices.DeleteFunc(names, func(n string) bool { t, _ := ref.Familiar(n); return t == "" })
		i := slices.IndexFunc(out, func(f found) bool { return f.target.Digest == e.target.Digest })
		if i < 0 {
			out = append(out, found{target: e.target})
			i = len(out) - 1
		}
		for _, n := range names {
			if !slices.Contains(out[i].names, n) {
				out[i].names = append(out[i].names, n)
			}
		}
	}
	for _, text := range refs {
		if _, err := s.Get(ctx, text, platform); err != nil {
			n, perr := reference.ParseNormalizedNamed(text)
			if !errdefs.IsNotFound(err) || perr != nil || !reference.IsNameOnly(n) {
				return nil, err
			}
		}
		c, err := s.catalog(ctx)
		if err != nil {
			return nil, err
		}
		n, err := reference.ParseNormalizedNamed(text)
		if err == nil && reference.IsNameOnly(n) && !ref.IsFullID(text) {
			some := false
			for _, e := range c.order {
				for _, stored := range e.names {
					if strings.HasPrefix(stored, n.Name()+":") {
						add(e, stored)
						some = true
					}
				}
			}
			if some {
				continue
			}
		}
		e, stored, err := s.find(ctx, c, text)
		if err != nil {
			return nil, err
		}
		if stored != "" {
			add(e, stored)
		} else {
			add(e)
		}
	}
	return out, nil
}

// indexBlobs are the target and the indexes below it.
func (s *Service) indexBlobs(ctx context.Context, target ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var out []ocispec.Descriptor
	level := []ocispec.Descriptor{target}
	for range maxNesting {
		var next []ocispec.Descriptor
		for _, d := range level {
			doc, err := s.doc(ctx, d)
			if errdefs.IsNotFound(err) || err == nil && doc.index == nil {
				continue
			}
			if err != nil {
				return nil, err
			}
			out = append(out, d)
			next = append(next, doc.index.Manifests...)
		}
		level = next
	}
	return out, nil
}

func (s *Service) writeBlobs(ctx context.Context, a *archive.Writer, blobs []ocispec.Descriptor) error {
	for _, d := range blobs {
		ra, err := s.store.Content.ReaderAt(s.context(ctx), d)
		if err != nil {
			return fmt.Errorf("image is incomplete: %w", err)
		}
		err = a.Blob(d.Digest, ra.Size(), content.NewReader(ra))
		if err := errors.Join(err, ra.Close()); err != nil {
			return err
		}
	}
	return nil
}

// named repeats a target for each of its names.
func named(target ocispec.Descriptor, names []string) []ocispec.Descriptor {
	target = ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size, Platform: target.Platform}
	if len(names) == 0 {
		return []ocispec.Descriptor{target}
	}
	var out []ocispec.Descriptor
	for _, n := range names {
		d := target
		d.Annotations = map[string]string{archive.AnnotationName: n}
		if _, tag, ok := cutTag(n); ok {
			d.Annotations[archive.AnnotationTag] = tag
		}
		out = append(out, d)
	}
	return out
}

// addDocker adds an image to manifest.json, which has each config once.
func addDocker(list []archive.DockerImage, v *variant, names []string) []archive.DockerImage {
	config := archive.BlobPath(v.manifest.Config.Digest)
	i := slices.IndexFunc(list, func(d archive.DockerImage) bool { return d.Config == config })
	if i < 0 {
		d := archive.DockerImage{Config: config, Layers: []string{}}
		for _, l := range v.manifest.Layers {
			d.Layers = append(d.Layers, archive.BlobPath(l.Digest))
		}
		list = append(list, d)
		i = len(list) - 1
	}
	for _, n := range names {
		list[i].RepoTags = append(list[i].RepoTags, familiar(n))
	}
	return list
}

package images

import (
	"context"
	"fmt"
	"slices"
	"strings"

	ctrd "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/caisson-engine/caisson/images/ref"
	"github.com/caisson-engine/caisson/images/registry"
	"github.com/caisson-engine/caisson/images/store"
)

// maxUploads is how many blobs of a push are in flight, as with Docker.
const maxUploads = 5

// PushedTag is the aux result of a push.
type PushedTag struct {
	Tag    string `json:"Tag"`
	Digest string `json:"Digest"`
	Size   int64  `json:"Size"`
}

// Push sends an image to the registry that its name tells. Of a multi-platform
// image that is not complete here, the one platform that is here is sent.
func (s *Service) Push(ctx context.Context, o PushOptions, p Progress) error {
	name, err := ref.ParseTag(o.Ref)
	if err != nil {
		return err
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	e := c.names[name.String()]
	if e == nil {
		return fmt.Errorf("An image does not exist locally with the tag: %s: %w", reference.FamiliarName(name), errdefs.ErrNotFound) //nolint:staticcheck // Docker's words
	}
	r := newReporter(p)
	r.line("", fmt.Sprintf("The push refers to repository [%s]", name.Name()))
	target, layers, manifests, err := s.toPush(ctx, e, o.Platform)
	if err != nil {
		return err
	}
	pusher, err := s.registry.Repo(name, credential(o.Auth)).Pusher(ctx)
	if err != nil {
		return err
	}
	for _, l := range layers {
		if ctrd.IsLayerType(l.MediaType) {
			r.line(short(l.Digest), "Preparing")
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxUploads)
	for _, l := range layers {
		told := r
		if !ctrd.IsLayerType(l.MediaType) {
			told = newReporter(nil) // users know of layers only
		}
		g.Go(func() error { return s.pushBlob(gctx, pusher, name, l, told) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	// A manifest after all that it names; the target, which is tagged, last.
	for _, d := range manifests {
		if err := s.pushBlob(ctx, pusher, name, d, newReporter(nil)); err != nil {
			return err
		}
	}
	r.line("", fmt.Sprintf("%s: digest: %s size: %d", name.Tag(), target.Digest, target.Size))
	r.send(Update{Aux: PushedTag{Tag: name.Tag(), Digest: target.Digest.String(), Size: target.Size}})
	return nil
}

// toPush lists what an image's push sends: configs and layers, then manifests
// in order, the target last.
func (s *Service) toPush(ctx context.Context, e *entry, platform *ocispec.Platform) (target ocispec.Descriptor, blobs, manifests []ocispec.Descriptor, err error) {
	vs, err := s.variants(ctx, e.target)
	if err != nil {
		return target, nil, nil, err
	}
	sizes := make([]usage, len(vs))
	whole := true
	for i := range vs {
		sizes[i] = s.usage(ctx, &vs[i])
		whole = whole && sizes[i].available
	}
	target = e.target
	if platform != nil || !whole {
		i := s.choose(vs, sizes, platform)
		if i < 0 || !sizes[i].available {
			want := s.platform
			if platform != nil {
				want = *platform
			}
			return target, nil, nil, fmt.Errorf("image does not provide platform %s completely: %w", platforms.FormatAll(want), errdefs.ErrNotFound)
		}
		vs = vs[i : i+1]
		target = vs[0].desc
	}
	seen := map[string]bool{}
	for i := range vs {
		for _, d := range append([]ocispec.Descriptor{vs[i].manifest.Config}, vs[i].manifest.Layers...) {
			if !seen[d.Digest.String()] {
				seen[d.Digest.String()] = true
				blobs = append(blobs, d)
			}
		}
		if vs[i].desc.Digest != target.Digest {
			manifests = append(manifests, vs[i].desc)
		}
	}
	if target.Digest == e.target.Digest {
		indexes, err := s.indexBlobs(ctx, target)
		if err != nil {
			return target, nil, nil, err
		}
		slices.Reverse(indexes) // the innermost first
		manifests = append(manifests, slices.DeleteFunc(indexes, func(d ocispec.Descriptor) bool { return d.Digest == target.Digest })...)
	}
	return target, blobs, append(manifests, target), nil
}

func (s *Service) pushBlob(ctx context.Context, p *registry.Pusher, name reference.Named, d ocispec.Descriptor, r *reporter) error {
	info, err := s.store.Content.Info(store.Context(ctx), d.Digest)
	if err != nil {
		return fmt.Errorf("image is incomplete: %w", err)
	}
	ra, err := s.store.Content.ReaderAt(store.Context(ctx), d)
	if err != nil {
		return err
	}
	defer ra.Close()
	from := strings.Split(info.Labels[labelSource+reference.Domain(name)], ",")
	id := short(d.Digest)
	done, err := p.Push(ctx, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, ra, from, func(n int64) { r.bytes(id, "Pushing", n, d.Size) })
	switch {
	case err != nil:
		return err
	case done.MountedFrom != "":
		r.line(id, "Mounted from "+strings.TrimPrefix(done.MountedFrom, reference.Domain(name)+"/"))
	case done.Existed:
		r.line(id, "Layer already exists")
	default:
		r.line(id, "Pushed")
	}
	return s.noteSource(ctx, name, d, info.Labels)
}

// noteSource remembers that a repository has a blob now.
func (s *Service) noteSource(ctx context.Context, name reference.Named, d ocispec.Descriptor, labels map[string]string) error {
	key := labelSource + reference.Domain(name)
	repos := strings.Split(labels[key], ",")
	if slices.Contains(repos, reference.Path(name)) || len(repos) >= maxSources {
		return nil
	}
	v := strings.TrimPrefix(labels[key]+","+reference.Path(name), ",")
	return s.store.Label(ctx, d.Digest, map[string]string{key: v})
}

// maxSources bounds the repositories remembered for a blob.
const maxSources = 8

package images

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ctrd "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images/ref"
	"github.com/caisson-engine/caisson/images/store"
)

// maxTags bounds what --all-tags pulls.
const maxTags = 1000

// Pull downloads an image and unpacks it. One that was interrupted, also by a
// crash, continues where it was; one that failed for what the registry sent
// leaves nothing behind.
func (s *Service) Pull(ctx context.Context, o PullOptions, p Progress) (*Image, error) {
	name, err := ref.Parse(o.Ref)
	if err != nil {
		return nil, err
	}
	r := newReporter(p)
	if img, err := s.pullBuiltin(ctx, name, o.Platform, r); img != nil || err != nil {
		return img, err
	}
	if !o.AllTags {
		return s.pull(ctx, name, o, r)
	}
	name = reference.TrimNamed(name)
	tags, err := s.registry.Tags(ctx, name, credential(o.Auth))
	if err != nil {
		return nil, err
	}
	if len(tags) == 0 || len(tags) > maxTags {
		return nil, fmt.Errorf("repository %s has %d tags, from 1 to %d can be pulled at once: %w", reference.FamiliarName(name), len(tags), maxTags, errdefs.ErrInvalidArgument)
	}
	var img *Image
	for _, t := range tags {
		tagged, err := reference.WithTag(name, t)
		if err != nil {
			return nil, fmt.Errorf("registry lists a bad tag %.100q: %w", t, errdefs.ErrInvalidArgument)
		}
		if img, err = s.pull(ctx, tagged, o, r); err != nil {
			return nil, err
		}
	}
	return img, nil
}

func (s *Service) pull(ctx context.Context, name reference.Named, o PullOptions, r *reporter) (*Image, error) {
	repo := s.registry.Repo(name, credential(o.Auth))
	tag := "latest"
	switch n := name.(type) {
	case reference.Tagged:
		tag = n.Tag()
	case reference.Digested:
		tag = n.Digest().String()
	}
	r.line(tag, "Pulling from "+reference.Path(name))
	target, err := repo.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	before, _ := s.catalog(ctx)
	ctx, end, err := s.store.Lease(ctx)
	if err != nil {
		return nil, err
	}
	source := map[string]string{}
	if d := reference.Domain(name); d != "" {
		source[labelSource+d] = reference.Path(name)
	}
	err = s.bring(ctx, repo.Fetch, &target, o.Platform, source, r)
	if err == nil {
		err = s.record(ctx, name.String(), target, map[string]string{labelPulled: "true"})
	}
	end(err != nil && worthKeeping(err))
	if err != nil {
		s.gc.Schedule()
		return nil, err
	}
	r.line("", "Digest: "+target.Digest.String())
	status := "Downloaded newer image for "
	if e := before.names[name.String()]; e != nil && e.target.Digest == target.Digest {
		status = "Image is up to date for "
	}
	r.line("", "Status: "+status+reference.FamiliarString(name))
	return s.Get(ctx, target.Digest.String(), o.Platform)
}

// labelSource starts the label of a blob that tells a registry's repositories
// that have it; the registry can then be asked to mount it elsewhere.
const labelSource = "containerd.io/distribution.source."

// bring gets the target and what the platform needs of it: indexes, one
// manifest, its config and layers, unpacked. Every blob is checked before it
// counts. ctx carries the lease.
func (s *Service) bring(ctx context.Context, fetch fetcher, target *ocispec.Descriptor, platform *ocispec.Platform, labels map[string]string, r *reporter) error {
	d, m, err := s.bringManifest(ctx, fetch, target, platform)
	if err != nil {
		return err
	}
	if err := checkLayers(m); err != nil {
		return err
	}
	if err := s.bringBlob(ctx, fetch, m.Config, maxConfig); err != nil {
		return err
	}
	c, err := s.config(ctx, m)
	if err != nil {
		return err
	}
	if platform != nil && !platforms.Only(*platform).Match(c.Platform) && c.OS != "" {
		return fmt.Errorf("image's platform (%s) does not match the specified platform (%s): %w", platforms.FormatAll(c.Platform), platforms.FormatAll(*platform), errdefs.ErrNotFound)
	}
	j := s.newLayerJob(fetch, labels, r)
	j.words, j.os = pullWords, c.OS
	if err := j.run(ctx, m.Layers, c.RootFS.DiffIDs); err != nil {
		return err
	}
	return s.link(ctx, d, m, c)
}

// link makes a manifest keep its config and layers, and the config keep the
// unpacked chain.
func (s *Service) link(ctx context.Context, d ocispec.Descriptor, m *ocispec.Manifest, c *DockerConfig) error {
	if err := s.store.Refer(ctx, d.Digest, append([]ocispec.Descriptor{m.Config}, m.Layers...)); err != nil {
		return err
	}
	if len(c.RootFS.DiffIDs) == 0 {
		return nil
	}
	return s.store.ReferSnapshot(ctx, m.Config.Digest, identity.ChainID(slices.Clone(c.RootFS.DiffIDs)))
}

// bringManifest goes from the target through its indexes to the platform's
// manifest, and sets the target's media type and size to what they are.
func (s *Service) bringManifest(ctx context.Context, fetch fetcher, target *ocispec.Descriptor, platform *ocispec.Platform) (ocispec.Descriptor, *ocispec.Manifest, error) {
	want := s.platform
	if platform != nil {
		want = *platform
	}
	seen := map[digest.Digest]bool{}
	d := *target
	for depth := 0; ; depth++ {
		if depth > maxNesting || seen[d.Digest] {
			return d, nil, fmt.Errorf("image has indexes nested deeper than %d, or in a circle: %w", maxNesting, errdefs.ErrInvalidArgument)
		}
		seen[d.Digest] = true
		if err := s.bringBlob(ctx, fetch, d, maxManifest); err != nil {
			return d, nil, err
		}
		doc, err := s.doc(ctx, d)
		if err != nil {
			return d, nil, err
		}
		if depth == 0 {
			fixTarget(target, doc)
		}
		if doc.manifest != nil {
			return d, doc.manifest, nil
		}
		if err := s.store.Refer(ctx, d.Digest, doc.index.Manifests); err != nil {
			return d, nil, err
		}
		i := choosePlatform(doc.index.Manifests, want)
		if i < 0 {
			return d, nil, fmt.Errorf("no matching manifest for %s in the manifest list entries: %w", platforms.FormatAll(want), errdefs.ErrNotFound)
		}
		d = doc.index.Manifests[i]
	}
}

// fixTarget gives a target the media type of what it is, where the registry
// said something else or nothing.
func fixTarget(target *ocispec.Descriptor, doc document) {
	switch {
	case doc.index != nil && !ctrd.IsIndexType(target.MediaType):
		target.MediaType = ocispec.MediaTypeImageIndex
	case doc.manifest != nil && !ctrd.IsManifestType(target.MediaType):
		target.MediaType = ocispec.MediaTypeImageManifest
	}
}

// choosePlatform picks the best manifest or index for a platform, -1 for none.
// An entry without a platform is an index, or an image that says it itself.
func choosePlatform(ds []ocispec.Descriptor, want ocispec.Platform) int {
	m := platforms.Only(want)
	best, bare := -1, -1
	for i, d := range ds {
		switch {
		case isAttestation(d):
		case d.Platform == nil || d.Platform.OS == "":
			if bare < 0 {
				bare = i
			}
		case m.Match(*d.Platform) && (best < 0 || m.Less(*d.Platform, *ds[best].Platform)):
			best = i
		}
	}
	if best < 0 {
		return bare
	}
	return best
}

// bringBlob gets a small blob, at most most bytes, and puts it under the lease.
func (s *Service) bringBlob(ctx context.Context, fetch fetcher, d ocispec.Descriptor, most int64) error {
	if d.Size > most {
		return fmt.Errorf("%s has %d bytes, at most %d are allowed: %w", d.Digest, d.Size, most, errdefs.ErrInvalidArgument)
	}
	if s.store.Has(ctx, d.Digest) {
		return s.store.Keep(ctx, d.Digest)
	}
	var b []byte
	err := fetch(ctx, d, 0, func(p []byte) error {
		if int64(len(b)+len(p)) > most {
			return fmt.Errorf("%s has more than %d bytes: %w", d.Digest, most, errdefs.ErrInvalidArgument)
		}
		b = append(b, p...)
		return nil
	})
	if err != nil {
		return err
	}
	if got := d.Digest.Algorithm().FromBytes(b); got != d.Digest {
		return fmt.Errorf("blob does not match its digest: %s arrived as %s: %w", d.Digest, got, errdefs.ErrInvalidArgument)
	}
	w, err := s.store.Content.Writer(ctx, content.WithRef("blob-"+d.Digest.String()), content.WithDescriptor(ocispec.Descriptor{Digest: d.Digest, Size: int64(len(b))}))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", d.Digest, err)
	}
	defer w.Close()
	if err := w.Truncate(0); err != nil {
		return fmt.Errorf("store %s: %w", d.Digest, err)
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("store %s: %w", d.Digest, err)
	}
	if err := w.Commit(ctx, int64(len(b)), d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("store %s: %w", d.Digest, err)
	}
	return nil
}

// record gives an image a name, which it takes from another that has it: that
// one stays as a dangling image if it has no name left. ctx carries the lease.
func (s *Service) record(ctx context.Context, name string, target ocispec.Descriptor, labels map[string]string) error {
	s.roots.mu.Lock()
	defer s.roots.mu.Unlock()
	c, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	l := map[string]string{labelTagged: time.Now().UTC().Format(time.RFC3339Nano)}
	if o := s.cfg.Owner(ctx); o != "" {
		l[labelOwner] = o
	}
	for k, v := range labels {
		l[k] = v
	}
	// Only what says where it is: where else it may be is not ours to keep.
	target = ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}
	if ref.IsDangling(name) && c.ids[target.Digest] != nil {
		return nil // it has a name, or is known to have none
	}
	if old := c.names[name]; old != nil && old.target.Digest != target.Digest && len(old.names) == 1 && !strings.Contains(name, "@") {
		if err := s.putDangling(ctx, old); err != nil {
			return err
		}
	}
	if err := s.store.Put(ctx, ctrd.Image{Name: name, Target: target, Labels: l}); err != nil {
		return err
	}
	if dangling := ref.Dangling(target.Digest); name != dangling && c.names[dangling] != nil {
		return s.store.Images.Delete(store.Context(ctx), dangling)
	}
	return nil
}

// putDangling keeps an image that loses its last name.
func (s *Service) putDangling(ctx context.Context, e *entry) error {
	l := map[string]string{}
	if e.owner != "" {
		l[labelOwner] = e.owner
	}
	if e.parent != "" {
		l[labelParent] = e.parent.String()
	}
	return s.store.Put(ctx, ctrd.Image{Name: ref.Dangling(e.target.Digest), Target: e.target, Labels: l})
}

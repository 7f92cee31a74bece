package images

import (
	"context"
	"encoding/json"
	"fmt"

	ctrd "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What an image may bring. Registries refuse more, as do other engines.
const (
	maxManifest = 4 << 20 // bytes of a manifest or index
	maxConfig   = 8 << 20 // bytes of an image config
	maxLayers   = 127     // overlayfs and Docker allow no more
	maxNesting  = 4       // indexes inside of indexes
	maxEntries  = 1024    // manifests of one image, of all its indexes
)

// document is a manifest or an index, which are told apart by what they hold:
// the media type is only a claim.
type document struct {
	index    *ocispec.Index
	manifest *ocispec.Manifest
}

// parseDocument reads what a registry or an archive calls an image.
func parseDocument(b []byte) (document, error) {
	if len(b) > maxManifest {
		return document{}, fmt.Errorf("manifest has %d bytes, at most %d are allowed: %w", len(b), maxManifest, errdefs.ErrInvalidArgument)
	}
	var d struct {
		SchemaVersion int             `json:"schemaVersion"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return document{}, fmt.Errorf("manifest is not valid: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if d.SchemaVersion == 1 || len(d.FSLayers) > 0 {
		return document{}, fmt.Errorf("image has a manifest of the obsolete schema 1, which is not supported; ask its publisher to push it with a current tool: %w", errdefs.ErrInvalidArgument)
	}
	if len(d.Manifests) > 0 && (len(d.Config) > 0 || len(d.Layers) > 0) {
		return document{}, fmt.Errorf("manifest is an index and a manifest in one: %w", errdefs.ErrInvalidArgument)
	}
	if len(d.Manifests) > 0 {
		var i ocispec.Index
		if err := json.Unmarshal(b, &i); err != nil {
			return document{}, fmt.Errorf("index is not valid: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if len(i.Manifests) > maxEntries {
			return document{}, fmt.Errorf("index has %d manifests, at most %d are allowed: %w", len(i.Manifests), maxEntries, errdefs.ErrInvalidArgument)
		}
		return document{index: &i}, checkDescriptors(i.Manifests)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return document{}, fmt.Errorf("manifest is not valid: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return document{manifest: &m}, checkManifest(&m)
}

func checkManifest(m *ocispec.Manifest) error {
	if err := checkDescriptors([]ocispec.Descriptor{m.Config}); err != nil {
		return err
	}
	if m.Config.Size > maxConfig {
		return fmt.Errorf("image config has %d bytes, at most %d are allowed: %w", m.Config.Size, maxConfig, errdefs.ErrInvalidArgument)
	}
	if len(m.Layers) > maxLayers {
		return fmt.Errorf("max depth exceeded: image has %d layers, at most %d are allowed: %w", len(m.Layers), maxLayers, errdefs.ErrInvalidArgument)
	}
	return checkDescriptors(m.Layers)
}

func checkDescriptors(ds []ocispec.Descriptor) error {
	for _, d := range ds {
		if err := d.Digest.Validate(); err != nil {
			return fmt.Errorf("manifest names a bad digest %.100q: %w: %w", string(d.Digest), err, errdefs.ErrInvalidArgument)
		}
		if d.Size < 0 {
			return fmt.Errorf("manifest names a negative size for %s: %w", d.Digest, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// checkLayers refuses what is no container image.
func checkLayers(m *ocispec.Manifest) error {
	if !ctrd.IsConfigType(m.Config.MediaType) && m.Config.MediaType != "" {
		return fmt.Errorf("%s is not a container image but an artifact: %w", m.Config.MediaType, errdefs.ErrInvalidArgument)
	}
	for _, l := range m.Layers {
		if !ctrd.IsLayerType(l.MediaType) {
			return fmt.Errorf("layer %s has the media type %.100q, which is not supported: %w", l.Digest, l.MediaType, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// parseConfig reads an image config that goes with m.
func parseConfig(b []byte, m *ocispec.Manifest) (*DockerConfig, error) {
	if len(b) > maxConfig {
		return nil, fmt.Errorf("image config has %d bytes, at most %d are allowed: %w", len(b), maxConfig, errdefs.ErrInvalidArgument)
	}
	var c DockerConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("image config is not valid: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("image config has %d layers, the manifest %d: %w", len(c.RootFS.DiffIDs), len(m.Layers), errdefs.ErrInvalidArgument)
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("image config names a bad layer digest: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return &c, nil
}

// isAttestation tells a manifest that describes another from an image.
func isAttestation(d ocispec.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] != "" ||
		d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// maxDocs is how many parsed documents are remembered.
const maxDocs = 512

// doc returns a stored manifest or index, parsed.
func (s *Service) doc(ctx context.Context, d ocispec.Descriptor) (document, error) {
	if v, ok := s.remembered(d.Digest); ok {
		if doc, ok := v.(document); ok {
			return doc, nil
		}
	}
	b, err := s.store.Read(ctx, d, maxManifest)
	if err != nil {
		return document{}, err
	}
	doc, err := parseDocument(b)
	if err == nil {
		s.remember(d.Digest, doc)
	}
	return doc, err
}

// config returns the stored config of m, parsed. It is shared: not to be changed.
func (s *Service) config(ctx context.Context, m *ocispec.Manifest) (*DockerConfig, error) {
	if v, ok := s.remembered(m.Config.Digest); ok {
		if c, ok := v.(*DockerConfig); ok && len(c.RootFS.DiffIDs) == len(m.Layers) {
			return c, nil
		}
	}
	b, err := s.store.Read(ctx, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(b, m)
	if err == nil {
		s.remember(m.Config.Digest, c)
	}
	return c, err
}

func (s *Service) remembered(d digest.Digest) (any, bool) {
	s.docsMu.Lock()
	defer s.docsMu.Unlock()
	v, ok := s.docs[d]
	return v, ok
}

// remember keeps a parsed blob, whose bytes cannot change.
func (s *Service) remember(d digest.Digest, v any) {
	s.docsMu.Lock()
	defer s.docsMu.Unlock()
	if len(s.docs) >= maxDocs {
		clear(s.docs)
	}
	s.docs[d] = v
}

// variant is one image manifest of a target.
type variant struct {
	desc     ocispec.Descriptor
	manifest *ocispec.Manifest // nil: not here
	config   *DockerConfig     // nil: not here
}

// platform is what the variant runs on.
func (v *variant) platform() ocispec.Platform {
	if v.desc.Platform != nil {
		return *v.desc.Platform
	}
	if v.config != nil {
		return v.config.Platform
	}
	return ocispec.Platform{}
}

// variants lists the image manifests below target, as far as they are here.
func (s *Service) variants(ctx context.Context, target ocispec.Descriptor) ([]variant, error) {
	var out []variant
	seen := map[digest.Digest]bool{}
	var walk func(d ocispec.Descriptor, depth int) error
	walk = func(d ocispec.Descriptor, depth int) error {
		if seen[d.Digest] || isAttestation(d) || len(out) >= maxEntries {
			return nil
		}
		seen[d.Digest] = true
		doc, err := s.doc(ctx, d)
		if errdefs.IsNotFound(err) {
			out = append(out, variant{desc: d})
			return nil
		}
		if err != nil {
			return err
		}
		if doc.index != nil {
			if depth >= maxNesting {
				return fmt.Errorf("image has indexes nested deeper than %d: %w", maxNesting, errdefs.ErrInvalidArgument)
			}
			for _, c := range doc.index.Manifests {
				if err := walk(c, depth+1); err != nil {
					return err
				}
			}
			return nil
		}
		v := variant{desc: d, manifest: doc.manifest}
		c, err := s.config(ctx, doc.manifest)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		v.config = c
		out = append(out, v)
		return nil
	}
	return out, walk(target, 0)
}

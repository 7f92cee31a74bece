package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images/archive"
)

// What a registry may send to harm us is refused in words, and nothing stays:
// no image, no blob, no partial download, no layer.
func TestHostileRegistry(t *testing.T) {
	s, ctx := newService(t), context.Background()
	v2 := specs.Versioned{SchemaVersion: 2}
	const mt = ocispec.MediaTypeImageManifest
	for name, c := range map[string]struct {
		make func(t *testing.T, h *hub)
		want string
		kind func(error) bool
	}{
		"wrong layer": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host, layer(t, file{name: "a", body: "good"}))
			h.blobs[m.Layers[0].Digest.String()] = zip(t, layer(t, file{name: "a", body: "evil"}))[:m.Layers[0].Size]
		}, "", nil},
		"swapped layer": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host, layer(t, file{name: "a", body: "good"}))
			b := bytes.Clone(h.blobs[m.Layers[0].Digest.String()])
			b[4] ^= 1 // gzip's time stamp: decompresses as before
			h.blobs[m.Layers[0].Digest.String()] = b
		}, "does not match its digest", nil},
		"wrong diff id": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host, layer(t, file{name: "a", body: "good"}))
			other := zip(t, layer(t, file{name: "a", body: "evil"}))
			m.Layers[0] = h.blob(m.Layers[0].MediaType, other)
			h.manifest("latest", mt, m)
		}, "does not match the image config", nil},
		"wrong config": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host, layer(t, file{name: "a"}))
			b := h.blobs[m.Config.Digest.String()]
			h.blobs[m.Config.Digest.String()] = bytes.Replace(b, []byte("true"), []byte("evil"), 1)
		}, "does not match its digest", nil},
		"escaping layer": {func(t *testing.T, h *hub) {
			h.image(t, "latest", host, layer(t, file{name: "a"}), layer(t, file{name: "../../../escaped", body: "x"}))
		}, "leads out of the root", nil},
		"missing layer": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host, layer(t, file{name: "a"}))
			delete(h.blobs, m.Layers[0].Digest.String())
		}, "", errdefs.IsNotFound},
		"oversized layer": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host, layer(t, file{name: "a"}))
			m.Layers[0].Size--
			h.manifest("latest", mt, m)
		}, "", func(err error) bool { return errdefs.IsInvalidArgument(err) || errdefs.IsFailedPrecondition(err) }},
		"too many layers": {func(t *testing.T, h *hub) {
			d, m := h.image(t, "latest", host)
			_ = d
			for range 128 {
				m.Layers = append(m.Layers, h.blob(ocispec.MediaTypeImageLayer, layer(t)))
			}
			h.manifest("latest", mt, m)
		}, "max depth exceeded", nil},
		"layers without diff ids": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host)
			m.Layers = append(m.Layers, h.blob(ocispec.MediaTypeImageLayer, layer(t)))
			h.manifest("latest", mt, m)
		}, "image config has 0 layers, the manifest 1", nil},
		"schema 1": {func(_ *testing.T, h *hub) {
			h.manifest("latest", "application/vnd.docker.distribution.manifest.v1+json", map[string]any{"schemaVersion": 1, "fsLayers": []any{}})
		}, "schema 1", nil},
		"index and manifest": {func(_ *testing.T, h *hub) {
			h.manifest("latest", mt, map[string]any{"schemaVersion": 2, "manifests": []any{}, "config": map[string]any{}})
		}, "an index and a manifest in one", nil},
		"huge manifest": {func(_ *testing.T, h *hub) {
			h.manifest("latest", mt, map[string]any{"schemaVersion": 2, "annotations": map[string]string{"x": strings.Repeat("x", 5<<20)}})
		}, "bytes are allowed", nil},
		"huge config": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host)
			m.Config = h.blob(m.Config.MediaType, bytes.Repeat([]byte(" "), 9<<20))
			h.manifest("latest", mt, m)
		}, "at most 8388608 are allowed", nil},
		"no JSON": {func(_ *testing.T, h *hub) { h.manifest("latest", mt, "text") }, "manifest is not valid", nil},
		"bad digest": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host)
			m.Config.Digest = "sha256:../../../../etc/passwd"
			h.manifest("latest", mt, m)
		}, "bad digest", nil},
		"negative size": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host)
			m.Config.Size = -1
			h.manifest("latest", mt, m)
		}, "negative size", nil},
		"artifact": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host)
			m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json"
			h.manifest("latest", mt, m)
		}, "not a container image", nil},
		"odd layer": {func(t *testing.T, h *hub) {
			_, m := h.image(t, "latest", host)
			m.Layers = append(m.Layers, h.blob("application/x-odd", []byte("x")))
			h.manifest("latest", mt, m)
		}, "not supported", nil},
		"deep index": {func(t *testing.T, h *hub) {
			d, _ := h.image(t, "m", host)
			for i := range maxNesting + 1 {
				d.Platform = nil
				d = h.manifest(fmt.Sprint(i), ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: v2, Manifests: []ocispec.Descriptor{d}})
			}
			h.manifests["latest"], h.types["latest"] = h.manifests[d.Digest.String()], ocispec.MediaTypeImageIndex
		}, "nested deeper", nil},
		"attestations only": {func(_ *testing.T, h *hub) {
			h.manifest("latest", ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: v2, Manifests: []ocispec.Descriptor{{
				Digest: digest.FromString("x"), Size: 1, MediaType: mt, Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"},
			}}})
		}, "no matching manifest", errdefs.IsNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			c.make(t, h)
			kind := errdefs.IsInvalidArgument
			if c.kind != nil {
				kind = c.kind
			}
			_, err := s.Pull(ctx, PullOptions{Ref: h.host() + "/bad"}, nil)
			if err == nil || !kind(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if l := left(t, s); len(l) > 0 {
				t.Errorf("left behind: %v", l)
			}
		})
	}
}

// The same for archives.
func TestHostileArchive(t *testing.T) {
	s, ctx := newService(t), context.Background()
	good := classic(t, []string{"x:1"}, layer(t, file{name: "a"}))
	blob := func(b string) string { return archive.BlobPath(digest.FromString(b)) }
	index := func(ds ...ocispec.Descriptor) string {
		b, _ := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: ds})
		return string(b)
	}
	for name, c := range map[string]struct {
		in   []byte
		want string
	}{
		"empty":            {nil, "no image"},
		"noise":            {bytes.Repeat([]byte("noise"), 1000), "not a complete tar"},
		"cut":              {good[:len(good)/2], ""},
		"no manifest":      {layer(t, file{name: "a", body: "b"}), "neither manifest.json nor index.json"},
		"dot dot":          {layer(t, file{name: "../x", body: "y"}), "leads out of the archive"},
		"absolute":         {layer(t, file{name: "/etc/x", body: "y"}), "leads out of the archive"},
		"link out":         {layer(t, file{name: "l", kind: tar.TypeSymlink, link: "/etc/passwd"}), "leads out of the archive"},
		"device":           {layer(t, file{name: "d", kind: tar.TypeChar, major: 1, minor: 3}), "neither a file nor a directory"},
		"layer outside":    {layer(t, file{name: "manifest.json", body: `[{"Config":"../c","Layers":[]}]`}), "leads out of the archive"},
		"layer missing":    {layer(t, file{name: "c.json", body: `{}`}, file{name: "manifest.json", body: `[{"Config":"c.json","Layers":["l"]}]`}), "lacks the file"},
		"link loop":        {layer(t, file{name: "c", kind: tar.TypeSymlink, link: "d"}, file{name: "d", kind: tar.TypeSymlink, link: "c"}, file{name: "manifest.json", body: `[{"Config":"c"}]`}), "lacks the file"},
		"wrong blob":       {layer(t, file{name: blob("x"), body: "y"}), "does not match its digest"},
		"bad blob name":    {layer(t, file{name: "blobs/sha256/xyz", body: "y"}), "is no digest"},
		"bad tag":          {classic(t, []string{"Not A Name"}, layer(t)), "invalid reference format"},
		"escaping layer":   {classic(t, []string{"x"}, layer(t, file{name: "../x"})), "leads out of the root"},
		"huge manifest":    {layer(t, file{name: "manifest.json", body: strings.Repeat(" ", 5<<20)}), "has more than"},
		"blobs missing":    {layer(t, file{name: "index.json", body: index(ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1})}), "not found"},
		"bad index digest": {layer(t, file{name: "index.json", body: index(ocispec.Descriptor{Digest: "sha256:../..", Size: 1})}), "bad digest"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, in := range [][]byte{c.in, zip(t, c.in)} {
				_, err := s.Load(ctx, bytes.NewReader(in), nil, nil)
				if err == nil || !strings.Contains(err.Error(), c.want) || !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
					t.Errorf("got %v, want %q", err, c.want)
				}
			}
			if l := left(t, s); len(l) > 0 {
				t.Errorf("left behind: %v", l)
			}
		})
	}
}

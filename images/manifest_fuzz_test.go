package images

import (
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzDocument feeds what a registry may answer to the parsers.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:ab","size":1}]}`), []byte(`{}`))
	f.Add([]byte(`{"schemaVersion":2,"config":{},"layers":[]}`), []byte(`{"rootfs":{"diff_ids":["sha256:x"]},"config":{"Healthcheck":{}}}`))
	f.Fuzz(func(t *testing.T, doc, config []byte) {
		d, err := parseDocument(doc)
		if err == nil && (d.index == nil) == (d.manifest == nil) {
			t.Error("neither or both")
		}
		m := d.manifest
		if m == nil {
			m = &ocispec.Manifest{}
		}
		if c, err := parseConfig(config, m); err == nil && len(c.RootFS.DiffIDs) != len(m.Layers) {
			t.Error("layers do not fit")
		}
	})
}

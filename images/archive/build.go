package archive

import (
	"archive/tar"
	"bytes"
	_ "crypto/sha256" // go-digest computes with it
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/klauspost/compress/gzip"
)

// Program is one platform's part of an image of a single program.
type Program struct {
	Platform ocispec.Platform
	Path     string // in the image, absolute, with slashes
	Binary   []byte
	Env      []string
	Labels   map[string]string
}

// Build writes an OCI archive of a multi-platform image with one static
// program in it, and returns the digest of its index. The same input gives the
// same bytes.
func Build(w io.Writer, name string, programs []Program) (digest.Digest, error) {
	a, err := NewWriter(w)
	if err != nil {
		return "", err
	}
	add := func(mediaType string, b []byte) (ocispec.Descriptor, error) {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		return d, a.Blob(d.Digest, d.Size, bytes.NewReader(b))
	}
	addJSON := func(mediaType string, v any) (ocispec.Descriptor, error) {
		b, err := json.Marshal(v)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		return add(mediaType, b)
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaTypeIndex}
	for _, p := range programs {
		raw, zipped, err := p.layer()
		if err != nil {
			return "", err
		}
		layer, err := add(ocispec.MediaTypeImageLayerGzip, zipped)
		if err != nil {
			return "", err
		}
		epoch := time.Unix(0, 0).UTC()
		config, err := addJSON(ocispec.MediaTypeImageConfig, ocispec.Image{
			Created:  &epoch,
			Platform: p.Platform,
			Config:   ocispec.ImageConfig{Entrypoint: []string{p.entrypoint()}, Env: p.Env, Labels: p.Labels},
			RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(raw)}},
			History:  []ocispec.History{{Created: &epoch, CreatedBy: "COPY " + path.Base(p.Path) + " " + p.Path}},
		})
		if err != nil {
			return "", err
		}
		m, err := addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: config, Layers: []ocispec.Descriptor{layer},
		})
		if err != nil {
			return "", err
		}
		platform := p.Platform
		m.Platform = &platform
		index.Manifests = append(index.Manifests, m)
	}
	top, err := addJSON(mediaTypeIndex, index)
	if err != nil {
		return "", err
	}
	top.Annotations = map[string]string{AnnotationName: name}
	return top.Digest, a.Close([]ocispec.Descriptor{top}, nil)
}

func (p *Program) entrypoint() string {
	if p.Platform.OS != "windows" {
		return p.Path
	}
	return `C:` + strings.ReplaceAll(p.Path, "/", `\`)
}

// layer is the program and its directories as a tar, plain and compressed. A
// Windows layer has its files below Files.
func (p *Program) layer() (raw, zipped []byte, err error) {
	file := strings.TrimPrefix(path.Clean(p.Path), "/")
	dirs := []string{}
	if p.Platform.OS == "windows" {
		file = "Files/" + file
		dirs = append(dirs, "Hives")
	}
	for d := path.Dir(file); d != "."; d = path.Dir(d) {
		dirs = append([]string{d}, dirs...)
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, d := range dirs {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: dirMode, ModTime: time.Unix(0, 0)}); err != nil {
			return nil, nil, fmt.Errorf("build layer: %w", err)
		}
	}
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file, Mode: 0o755, Size: int64(len(p.Binary)), ModTime: time.Unix(0, 0)}); err != nil {
		return nil, nil, fmt.Errorf("build layer: %w", err)
	}
	if _, err := tw.Write(p.Binary); err != nil {
		return nil, nil, fmt.Errorf("build layer: %w", err)
	}
	if err := tw.Close(); err != nil {
		return nil, nil, fmt.Errorf("build layer: %w", err)
	}
	var z bytes.Buffer
	zw, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
	if err != nil {
		return nil, nil, err
	}
	if _, err := zw.Write(b.Bytes()); err != nil {
		return nil, nil, fmt.Errorf("build layer: %w", err)
	}
	if err := zw.Close(); err != nil {
		return nil, nil, fmt.Errorf("build layer: %w", err)
	}
	return b.Bytes(), z.Bytes(), nil
}

// Package archive reads and writes images as tar streams: Docker's archives,
// of the classic form (manifest.json and layer.tar files) and the current one,
// and OCI image layouts. What is read is hostile; nothing is written anywhere
// but to the sink, which checks digests.
package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	maxIndex   = 4 << 20 // bytes of manifest.json and index.json
	maxFiles   = 20000   // entries of an archive
	maxLinks   = 16      // links from one name to the next
	maxImages  = 1000    // images of an archive
	dockerFile = "manifest.json"
	indexFile  = "index.json"
	layoutFile = "oci-layout"
	blobsDir   = "blobs/"
)

// Blob is a file of the archive, stored by the sink.
type Blob struct {
	Digest digest.Digest
	Size   int64
}

// Sink stores a blob of size bytes. want is its digest, "" if that is not
// known; a blob that does not match is InvalidArgument.
type Sink func(ctx context.Context, r io.Reader, size int64, want digest.Digest) (Blob, error)

// DockerImage is one image of manifest.json. Its paths are files of the archive.
type DockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Archive is what was in one.
type Archive struct {
	Docker []DockerImage
	Index  *ocispec.Index // nil: not an OCI layout
	files  map[string]Blob
	links  map[string]string
}

// Read reads a whole uncompressed archive. Errors in it are InvalidArgument.
func Read(ctx context.Context, r io.Reader, sink Sink) (*Archive, error) {
	a := &Archive{files: map[string]Blob{}, links: map[string]string{}}
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("archive is not a complete tar archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		if n >= maxFiles {
			return nil, fmt.Errorf("archive has more than %d files: %w", maxFiles, errdefs.ErrInvalidArgument)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := a.entry(ctx, h, tr, sink); err != nil {
			return nil, fmt.Errorf("archive entry %.200q: %w", h.Name, err)
		}
	}
	// Readers of pipes want theirs read to the end.
	if _, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20)); err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	if len(a.Docker) == 0 && a.Index == nil {
		return nil, fmt.Errorf("archive is no image: it has neither %s nor %s: %w", dockerFile, indexFile, errdefs.ErrInvalidArgument)
	}
	return a, nil
}

// inside cleans a path of the archive. It may not lead out.
func inside(p string) (string, error) {
	c := path.Clean(p)
	if path.IsAbs(c) || c == ".." || strings.HasPrefix(c, "../") {
		return "", fmt.Errorf("path %.200q leads out of the archive: %w", p, errdefs.ErrInvalidArgument)
	}
	return c, nil
}

func (a *Archive) entry(ctx context.Context, h *tar.Header, r io.Reader, sink Sink) error {
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil
	case tar.TypeSymlink:
		to, err := inside(path.Join(path.Dir(name), h.Linkname))
		a.links[name] = to
		if path.IsAbs(h.Linkname) {
			err = fmt.Errorf("link to %.200q leads out of the archive: %w", h.Linkname, errdefs.ErrInvalidArgument)
		}
		return err
	case tar.TypeLink:
		to, err := inside(h.Linkname)
		a.links[name] = to
		return err
	case tar.TypeReg:
	default:
		return fmt.Errorf("is neither a file nor a directory: %w", errdefs.ErrInvalidArgument)
	}
	switch base := path.Base(name); {
	case name == dockerFile:
		return decode(r, &a.Docker)
	case name == indexFile:
		a.Index = &ocispec.Index{}
		return decode(r, a.Index)
	case name == layoutFile || base == "VERSION" || base == "json" || base == "repositories":
		return nil // says nothing that is not said elsewhere
	}
	want := digest.Digest("")
	if rest, ok := strings.CutPrefix(name, blobsDir); ok {
		alg, hex, _ := strings.Cut(rest, "/")
		want = digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
		if err := want.Validate(); err != nil {
			return fmt.Errorf("is no digest: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	b, err := sink(ctx, r, h.Size, want)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("is cut off: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	a.files[name] = b
	return err
}

func decode(r io.Reader, v any) error {
	b, err := io.ReadAll(io.LimitReader(r, maxIndex+1))
	if err != nil {
		return err
	}
	if len(b) > maxIndex {
		return fmt.Errorf("has more than %d bytes: %w", maxIndex, errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("is not valid: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	switch v := v.(type) {
	case *[]DockerImage:
		if len(*v) > maxImages {
			return fmt.Errorf("has more than %d images: %w", maxImages, errdefs.ErrInvalidArgument)
		}
	case *ocispec.Index:
		if len(v.Manifests) > maxImages {
			return fmt.Errorf("has more than %d images: %w", maxImages, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// File returns the blob that a path of the archive leads to.
func (a *Archive) File(p string) (Blob, error) {
	name, err := inside(p)
	for range maxLinks {
		if err != nil {
			return Blob{}, err
		}
		if b, ok := a.files[name]; ok {
			return b, nil
		}
		to, ok := a.links[name]
		if !ok {
			break
		}
		name, err = inside(to)
	}
	return Blob{}, fmt.Errorf("archive lacks the file %.200q, which it refers to: %w", p, errdefs.ErrInvalidArgument)
}

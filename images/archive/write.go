package archive

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Names of the annotations that carry an image's name.
const (
	AnnotationName = "io.containerd.image.name"  // the whole name
	AnnotationTag  = ocispec.AnnotationRefName   // the tag, or what its writer likes
	mediaTypeIndex = ocispec.MediaTypeImageIndex // of index.json
	layoutVersion  = ocispec.ImageLayoutVersion  // of oci-layout
	fileMode       = 0o644                       // of files in the archive
	dirMode        = 0o755                       // of directories in it
)

// Writer writes an archive that is an OCI layout and a Docker archive in one.
type Writer struct {
	tw    *tar.Writer
	blobs map[digest.Digest]bool
}

// NewWriter starts an archive on w.
func NewWriter(w io.Writer) (*Writer, error) {
	a := &Writer{tw: tar.NewWriter(w), blobs: map[digest.Digest]bool{}}
	b, err := json.Marshal(ocispec.ImageLayout{Version: layoutVersion})
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"blobs/", "blobs/sha256/"} {
		if err := a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: dirMode, ModTime: time.Unix(0, 0)}); err != nil {
			return nil, fmt.Errorf("write archive: %w", err)
		}
	}
	return a, a.file(layoutFile, b)
}

// BlobPath is where a blob is in the archive.
func BlobPath(d digest.Digest) string { return blobsDir + d.Algorithm().String() + "/" + d.Encoded() }

func (a *Writer) header(name string, size int64) error {
	err := a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: fileMode, Size: size, ModTime: time.Unix(0, 0)})
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

func (a *Writer) file(name string, b []byte) error {
	if err := a.header(name, int64(len(b))); err != nil {
		return err
	}
	if _, err := a.tw.Write(b); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

// Blob adds a blob of size bytes, once.
func (a *Writer) Blob(d digest.Digest, size int64, r io.Reader) error {
	if a.blobs[d] {
		return nil
	}
	a.blobs[d] = true
	if err := a.header(BlobPath(d), size); err != nil {
		return err
	}
	if _, err := io.CopyN(a.tw, r, size); err != nil {
		return fmt.Errorf("write %s to archive: %w", d, err)
	}
	return nil
}

// Close writes what lists the images, and the end.
func (a *Writer) Close(index []ocispec.Descriptor, docker []DockerImage) error {
	i, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaTypeIndex, Manifests: index})
	if err != nil {
		return err
	}
	if err := a.file(indexFile, i); err != nil {
		return err
	}
	if len(docker) > 0 {
		d, err := json.Marshal(docker)
		if err != nil {
			return err
		}
		if err := a.file(dockerFile, d); err != nil {
			return err
		}
	}
	if err := a.tw.Close(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// memory is a sink that keeps blobs.
func memory(blobs map[digest.Digest][]byte) Sink {
	return func(_ context.Context, r io.Reader, size int64, want digest.Digest) (Blob, error) {
		b, err := io.ReadAll(r)
		d := digest.FromBytes(b)
		blobs[d] = b
		if err == nil && int64(len(b)) != size {
			err = io.ErrUnexpectedEOF
		}
		return Blob{d, size}, err
	}
}

func TestWriteRead(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	config, data := []byte(`{"os":"linux"}`), []byte("layer")
	for range 2 { // the second time is left out
		for _, x := range [][]byte{config, data} {
			if err := w.Blob(digest.FromBytes(x), int64(len(x)), bytes.NewReader(x)); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := ocispec.Descriptor{Digest: digest.FromBytes(config), Size: int64(len(config)), Annotations: map[string]string{AnnotationName: "x:1"}}
	img := DockerImage{Config: BlobPath(d.Digest), RepoTags: []string{"x:1"}, Layers: []string{BlobPath(digest.FromBytes(data))}}
	if err := w.Close([]ocispec.Descriptor{d}, []DockerImage{img}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for tr := tar.NewReader(bytes.NewReader(b.Bytes())); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		names = append(names, h.Name)
	}
	want := []string{"blobs/", "blobs/sha256/", "oci-layout", BlobPath(d.Digest), img.Layers[0], "index.json", "manifest.json"}
	if !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	blobs := map[digest.Digest][]byte{}
	a, err := Read(context.Background(), &b, memory(blobs))
	if err != nil || len(blobs) != 2 || a.Index.Manifests[0].Annotations[AnnotationName] != "x:1" || a.Docker[0].RepoTags[0] != "x:1" {
		t.Fatalf("%v %+v", err, a)
	}
	if f, err := a.File(img.Layers[0]); err != nil || string(blobs[f.Digest]) != "layer" {
		t.Errorf("%v %v", f, err)
	}
}

// The same program gives the same image, whenever it is built.
func TestBuild(t *testing.T) {
	programs := []Program{
		{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Path: "/bin/hello", Binary: []byte("ELF")},
		{Platform: ocispec.Platform{OS: "windows", Architecture: "amd64"}, Path: "/hello.exe", Binary: []byte("MZ")},
	}
	var one, two bytes.Buffer
	d1, err1 := Build(&one, "x", programs)
	d2, err2 := Build(&two, "x", programs)
	if err1 != nil || err2 != nil || d1 != d2 || !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Errorf("%v %v %v %v", d1, d2, err1, err2)
	}
	blobs := map[digest.Digest][]byte{}
	if a, err := Read(context.Background(), &one, memory(blobs)); err != nil || a.Index.Manifests[0].Digest != d1 || len(blobs) != 7 {
		t.Errorf("%v %v", err, slices.Collect(maps.Keys(blobs)))
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if _, err := Build(&b, "x", []Program{{Platform: ocispec.Platform{OS: "linux"}, Path: "/x", Binary: []byte("y")}}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(_ *testing.T, in []byte) {
		a, err := Read(context.Background(), bytes.NewReader(in), memory(map[digest.Digest][]byte{}))
		if err != nil {
			return
		}
		for _, d := range a.Docker {
			_, _ = a.File(d.Config)
		}
	})
}

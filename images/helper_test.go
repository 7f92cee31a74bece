package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// newService opens a service in a new directory. The overlay needs root; the
// native snapshotter needs it too, to give files their owners.
func newService(t testing.TB) *Service {
	t.Helper()
	return newServiceAt(t, t.TempDir())
}

func newServiceAt(t testing.TB, root string) *Service {
	t.Helper()
	if runtime.GOOS == "linux" && os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners")
	}
	s, err := New(context.Background(), Config{Root: root, Owner: func(context.Context) string { return "tester" }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !strings.Contains(err.Error(), "not open") {
			t.Error(err)
		}
	})
	return s
}

// file is an entry of a layer made for a test.
type file struct {
	name, body, link string
	kind             byte
	mode             int64
	uid, gid         int
	pax              map[string]string
	major, minor     int64
}

func layer(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{
			Name: f.name, Typeflag: f.kind, Linkname: f.link, Mode: f.mode, Size: int64(len(f.body)), Uid: f.uid, Gid: f.gid,
			ModTime: time.Unix(1700000000, 0), PAXRecords: f.pax, Devmajor: f.major, Devminor: f.minor, Format: tar.FormatPAX,
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zip(t testing.TB, b []byte) []byte {
	t.Helper()
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

func dir(name string) file { return file{name: name, kind: tar.TypeDir, mode: 0o755} }

// hub is a registry that serves what a test puts in, right or wrong.
type hub struct {
	*httptest.Server
	mu        sync.Mutex
	manifests map[string][]byte // by tag and digest
	types     map[string]string
	blobs     map[string][]byte // by digest
	cut       map[string]int    // by digest: bytes of the next answer before it breaks
	ranges    []string          // Range headers seen
	gets      map[string]int    // by digest
}

func newHub(t testing.TB) *hub {
	h := &hub{manifests: map[string][]byte{}, types: map[string]string{}, blobs: map[string][]byte{}, cut: map[string]int{}, gets: map[string]int{}}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.Close)
	return h
}

func (h *hub) host() string { return strings.TrimPrefix(h.URL, "http://") }

func (h *hub) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := filepath.Base(r.URL.Path)
	switch {
	case r.URL.Path == "/v2/":
	case strings.Contains(r.URL.Path, "/manifests/"):
		b, ok := h.manifests[last]
		if !ok {
			http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", h.types[last])
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(b).String())
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	case strings.Contains(r.URL.Path, "/blobs/"):
		b, ok := h.blobs[last]
		if !ok {
			http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`, http.StatusNotFound)
			return
		}
		if r.Method == http.MethodGet {
			h.gets[last]++
			h.ranges = append(h.ranges, r.Header.Get("Range"))
		}
		if n, ok := h.cut[last]; ok && r.Method == http.MethodGet {
			delete(h.cut, last)
			w.Header().Set("Content-Length", "99999999")
			_, _ = w.Write(b[:n])
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	default:
		http.NotFound(w, r)
	}
}

func (h *hub) blob(mediaType string, b []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blobs[d.Digest.String()] = b
	return d
}

func (h *hub) manifest(tag, mediaType string, v any) ocispec.Descriptor {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range []string{tag, d.Digest.String()} {
		h.manifests[k], h.types[k] = b, mediaType
	}
	return d
}

// image puts an image of gzip layers in and returns its manifest and document.
func (h *hub) image(t testing.TB, tag string, p ocispec.Platform, layers ...[]byte) (ocispec.Descriptor, ocispec.Manifest) {
	t.Helper()
	created := time.Unix(1700000000, 0)
	c := ocispec.Image{Created: &created, Platform: p, Config: ocispec.ImageConfig{Cmd: []string{"/bin/true"}, Labels: map[string]string{"kind": "test"}}, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
		c.History = append(c.History, ocispec.History{Created: &created, CreatedBy: "test"})
		m.Layers = append(m.Layers, h.blob(ocispec.MediaTypeImageLayerGzip, zip(t, l)))
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	m.Config = h.blob(ocispec.MediaTypeImageConfig, b)
	return h.manifest(tag, m.MediaType, m), m
}

var host = ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}

// lines collects the updates of a pull.
type lines struct{ all []Update }

func (l *lines) add(u Update) { l.all = append(l.all, u) }

func (l *lines) has(status string) bool {
	for _, u := range l.all {
		if u.Status == status {
			return true
		}
	}
	return false
}

// left lists what a store holds: image records, blobs, ingests and snapshots
// by name, and the directories of layers on the disk.
func left(t testing.TB, s *Service) []string {
	t.Helper()
	ctx := s.context(context.Background())
	if err := s.gc.Now(ctx); err != nil {
		t.Fatal(err)
	}
	var out []string
	note := func(kind, name string) { out = append(out, kind+" "+name) }
	records, err := s.store.Images.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		note("image", r.Name)
	}
	if err := s.store.Content.Walk(ctx, func(i content.Info) error { note("blob", i.Digest.String()); return nil }); err != nil {
		t.Fatal(err)
	}
	ingests, err := s.store.Content.ListStatuses(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ingests {
		note("ingest", i.Ref)
	}
	err = s.store.Snapshots.Walk(ctx, func(_ context.Context, i snapshots.Info) error { note("snapshot", i.Name); return nil })
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := os.ReadDir(s.path("snapshots", "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		out = append(out, "dir "+d.Name())
	}
	return out
}

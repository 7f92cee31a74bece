package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images/archive"
)

// classic is an archive as dockerd 20.10 saves it.
func classic(t *testing.T, tags []string, layers ...[]byte) []byte {
	t.Helper()
	c := ocispec.Image{Platform: host, RootFS: ocispec.RootFS{Type: "layers"}}
	img := archive.DockerImage{RepoTags: tags}
	var files []file
	for i, l := range layers {
		id := digest.FromBytes(append(l, byte(i))).Encoded()
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
		img.Layers = append(img.Layers, id+"/layer.tar")
		files = append(files, dir(id), file{name: id + "/VERSION", body: "1.0"}, file{name: id + "/json", body: "{}"})
		if i > 0 && bytes.Equal(l, layers[i-1]) {
			files = append(files, file{name: id + "/layer.tar", kind: tar.TypeSymlink, link: "../" + img.Layers[i-1]})
			continue
		}
		files = append(files, file{name: id + "/layer.tar", body: string(l)})
	}
	b, _ := json.Marshal(c)
	img.Config = digest.FromBytes(b).Encoded() + ".json"
	m, _ := json.Marshal([]archive.DockerImage{img})
	files = append(files, file{name: img.Config, body: string(b)}, file{name: "manifest.json", body: string(m)}, file{name: "repositories", body: "{}"})
	return layer(t, files...)
}

func TestLoadClassic(t *testing.T) {
	s, ctx := newService(t), context.Background()
	same := layer(t, file{name: "f", body: "x"})
	a := classic(t, []string{"app:1", "reg.example/app:2"}, layer(t, dir("d")), same, same)
	for _, in := range [][]byte{a, zip(t, a)} {
		got, err := s.Load(ctx, bytes.NewReader(in), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || got[0].Name != "app:1" || got[1].Name != "reg.example/app:2" {
			t.Errorf("%v", got)
		}
	}
	img, err := s.Get(ctx, "app:1", nil)
	if err != nil || !img.Unpacked || len(img.Config.RootFS.DiffIDs) != 3 {
		t.Errorf("%v %+v", err, img)
	}
}

// What Save writes can be loaded again, by ourselves here; tests/ has the real
// dockerd and skopeo.
func TestSaveLoad(t *testing.T) {
	s, h, ctx := newService(t), newHub(t), context.Background()
	d, _ := h.image(t, "latest", host, layer(t, file{name: "a", body: "1"}), layer(t, file{name: "b", body: "2"}))
	name := h.host() + "/x"
	if _, err := s.Pull(ctx, PullOptions{Ref: name}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(ctx, name, "other:v2"); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.Save(ctx, []string{name, "other"}, nil, &b); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"missing", "other:nope"} {
		if err := s.Save(ctx, []string{ref}, nil, &bytes.Buffer{}); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	s2 := newService(t)
	got, err := s2.Load(ctx, bytes.NewReader(b.Bytes()), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].ID != d.Digest {
		t.Errorf("%v", got)
	}
	img, err := s2.Get(ctx, "other:v2", nil)
	if err != nil || img.ID != d.Digest || !img.Unpacked || len(img.Names) != 2 {
		t.Errorf("%v %+v", err, img)
	}
	for range 2 { // by name, then the rest
		if _, err := s2.Delete(ctx, img.Names[0], false, true, nobodyUses); err != nil {
			t.Fatal(err)
		}
		img.Names = img.Names[1:]
	}
	if l := left(t, s2); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}

func TestPushPull(t *testing.T) {
	s, h, ctx := newService(t), newHub(t), context.Background()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	to := strings.TrimPrefix(srv.URL, "http://")
	d, _ := h.image(t, "latest", host, layer(t, file{name: "a", body: "1"}))
	if _, err := s.Pull(ctx, PullOptions{Ref: h.host() + "/x"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(ctx, PushOptions{Ref: to + "/y:1"}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("untagged: %v", err)
	}
	if err := s.Tag(ctx, h.host()+"/x", to+"/y:1"); err != nil {
		t.Fatal(err)
	}
	for i, state := range []string{"Pushed", "Layer already exists"} {
		var l lines
		if err := s.Push(ctx, PushOptions{Ref: to + "/y:1"}, l.add); err != nil {
			t.Fatal(err)
		}
		if !l.has(state) || !slices.ContainsFunc(l.all, func(u Update) bool {
			p, ok := u.Aux.(PushedTag)
			return ok && p.Digest == d.Digest.String() && p.Tag == "1" && p.Size == d.Size
		}) {
			t.Errorf("push %d: %v", i, l.all)
		}
	}
	s2 := newService(t)
	if img, err := s2.Pull(ctx, PullOptions{Ref: to + "/y:1"}, nil); err != nil || img.ID != d.Digest {
		t.Errorf("%v", err)
	}
	if _, err := s2.Pull(ctx, PullOptions{Ref: to + "/y:2"}, nil); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "manifest unknown") {
		t.Errorf("%v", err)
	}
	if img, err := s2.Pull(ctx, PullOptions{Ref: to + "/y", AllTags: true}, nil); err != nil || img.ID != d.Digest {
		t.Errorf("all tags: %v", err)
	}
}

func TestImportCommit(t *testing.T) {
	s, ctx := newService(t), context.Background()
	base, err := s.Import(ctx, bytes.NewReader(zip(t, layer(t, dir("etc"), file{name: "etc/x", body: "1"}))), ImportOptions{Ref: "base:1", Message: "hand made", Config: &RunConfig{}})
	if err != nil || !base.Unpacked || base.Names[0] != "base:1" {
		t.Fatalf("%v %+v", err, base)
	}
	for what, in := range map[string][]byte{"empty": nil, "cut": zip(t, layer(t, file{name: "x", body: "y"}))[:40]} {
		if _, err := s.Import(ctx, bytes.NewReader(in), ImportOptions{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	c := CommitOptions{Base: base.ID, Ref: "child", Author: "me", Comment: "second", CreatedBy: "/bin/sh", Config: RunConfig{}}
	c.Config.Cmd = []string{"run"}
	child, err := s.Commit(ctx, c, bytes.NewReader(layer(t, file{name: "etc/.wh.x"}, file{name: "etc/y", body: "2"})))
	if err != nil || child.Parent != base.ID || child.Config.Config.Cmd[0] != "run" || !child.Unpacked || child.Config.Author != "me" {
		t.Fatalf("%v %+v", err, child)
	}
	hist, err := s.History(ctx, "child", nil)
	if err != nil || len(hist) != 2 || hist[0].ID != child.ID.String() || hist[0].CreatedBy != "/bin/sh" || hist[1].ID != "<missing>" || hist[1].Comment != "hand made" {
		t.Errorf("%v %+v", err, hist)
	}
	unnamed, err := s.Commit(ctx, CommitOptions{Base: child.ID}, bytes.NewReader(layer(t)))
	if err != nil || len(unnamed.Names) != 0 {
		t.Fatalf("%v %+v", err, unnamed)
	}
	for f, want := range map[string]int{"dangling=true": 1, "dangling=false": 2, "reference=base": 1, "reference=ch*": 1, "since=base:1": 2, "before=child": 1, "until=24h": 0} {
		k, v, _ := strings.Cut(f, "=")
		got, err := s.List(ctx, ListOptions{Filters: map[string][]string{k: {v}}})
		if err != nil || len(got) != want {
			t.Errorf("%s: %v, %d images, want %d", f, err, len(got), want)
		}
	}
	if _, err := s.List(ctx, ListOptions{Filters: map[string][]string{"colour": {"blue"}}}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	del, freed, err := s.Prune(ctx, nil, nobodyUses)
	if err != nil || len(del) != 1 || del[0].Deleted != unnamed.ID.String() || freed == 0 {
		t.Errorf("%v %v %d", err, del, freed)
	}
	if _, _, err := s.Prune(ctx, map[string][]string{"dangling": {"false"}}, nobodyUses); err != nil {
		t.Error(err)
	}
	if l := left(t, s); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}

func TestNames(t *testing.T) {
	s, ctx := newService(t), context.Background()
	a, err := s.Import(ctx, bytes.NewReader(layer(t, file{name: "a"})), ImportOptions{Ref: "n:1"})
	if err != nil {
		t.Fatal(err)
	}
	// A name that moves on leaves its image dangling.
	b, err := s.Import(ctx, bytes.NewReader(layer(t, file{name: "b"})), ImportOptions{Ref: "n:1"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(ctx, a.ID.String(), nil); err != nil || len(got.Names) != 0 {
		t.Errorf("%v %+v", err, got)
	}
	for _, n := range []string{"n:2", "m"} {
		if err := s.Tag(ctx, b.ID.Encoded()[:10], n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Delete(ctx, b.ID.String(), false, true, nobodyUses); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "must be forced") {
		t.Error(err)
	}
	if d, err := s.Delete(ctx, "n:2", false, true, nobodyUses); err != nil || len(d) != 1 || d[0].Untagged != "n:2" {
		t.Errorf("%v %v", d, err)
	}
	if d, err := s.Delete(ctx, b.ID.String(), true, true, nobodyUses); err != nil || len(d) != 3 {
		t.Errorf("%v %v", d, err)
	}
	if err := s.Tag(ctx, a.ID.String(), "x@"+a.ID.String()); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestBuiltin(t *testing.T) {
	s, ctx := newService(t), context.Background()
	var b bytes.Buffer
	d, err := archive.Build(&b, "caisson/hello:latest", []archive.Program{
		{Platform: host, Path: "/hello", Binary: []byte("program")},
		{Platform: ocispec.Platform{OS: "windows", Architecture: "amd64"}, Path: "/hello.exe", Binary: []byte("MZ")},
	})
	if err != nil {
		t.Fatal(err)
	}
	opened := 0
	if err := s.EnsureBuiltin(ctx, "caisson/hello", func() io.ReadCloser { opened++; return io.NopCloser(bytes.NewReader(b.Bytes())) }, d); err != nil {
		t.Fatal(err)
	}
	if l := left(t, s); len(l) > 0 || opened > 0 {
		t.Errorf("loaded before it was asked for: %v", l)
	}
	for range 2 {
		img, err := s.Get(ctx, "caisson/hello", nil)
		if err != nil || img.ID != d || !img.Unpacked || len(img.Platforms) != 2 || img.Config.Config.Entrypoint[0] != "/hello" {
			t.Fatalf("%v %+v", err, img)
		}
	}
	var l lines
	if _, err := s.Pull(ctx, PullOptions{Ref: "caisson/hello"}, l.add); err != nil || !l.has("Status: Image is up to date for caisson/hello:latest") {
		t.Errorf("%v %v", err, l)
	}
	if opened != 1 {
		t.Errorf("opened %d times", opened)
	}
}

// An engine that was killed leaves what the next one collects.
func TestSweep(t *testing.T) {
	root := t.TempDir()
	s, ctx := newServiceAt(t, root), context.Background()
	if !s.overlay {
		t.Skip("needs the overlay")
	}
	u, err := s.newLayerDir(s.context(ctx))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(u.dir, "half"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := s.Import(ctx, bytes.NewReader(layer(t, file{name: "a"})), ImportOptions{Ref: "kept"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(ctx, "c", img, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = newServiceAt(t, root)
	if l := left(t, s); slices.ContainsFunc(l, func(s string) bool { return strings.Contains(s, extractPrefix) }) {
		t.Errorf("left behind: %v", l)
	}
	if _, err := os.Stat(u.dir); !os.IsNotExist(err) {
		t.Error(err)
	}
	if _, err := s.Mounts(ctx, "c"); err != nil {
		t.Error(err)
	}
	// After a crash of the host, layers that may not be on the disk are unpacked anew.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(unsyncedRecord{Boot: "another boot", Chains: []digest.Digest{img.ChainID}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.unsyncedPath(), b, 0o600); err != nil {
		t.Fatal(err)
	}
	s = newServiceAt(t, root)
	if got, err := s.Get(ctx, "kept", nil); err != nil || got.Unpacked {
		t.Errorf("damaged layer is trusted: %v", err)
	}
	m, err := s.Mounts(ctx, "c")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(strings.TrimPrefix(m[0].Options[0], "lowerdir="), "a")); err != nil {
		t.Error(err)
	}
}

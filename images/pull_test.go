package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
)

func nobodyUses(digest.Digest) []string { return nil }

func TestPull(t *testing.T) {
	s, h, ctx := newService(t), newHub(t), context.Background()
	base := layer(t, dir("etc"), file{name: "etc/a", body: "one"}, file{name: "etc/b", body: "two"})
	top := layer(t, file{name: "etc/.wh.a"}, file{name: "etc/c", body: "three", mode: 0o4755, uid: 7, gid: 8})
	d, _ := h.image(t, "v1", host, base, top)
	var l lines
	img, err := s.Pull(ctx, PullOptions{Ref: h.host() + "/test/app:v1"}, l.add)
	if err != nil {
		t.Fatal(err)
	}
	name := h.host() + "/test/app:v1"
	if img.ID != d.Digest || !slices.Equal(img.Names, []string{name}) || !img.Unpacked || img.Owner != "tester" || img.Config.Config.Cmd[0] != "/bin/true" {
		t.Errorf("wrong image %+v", img)
	}
	for _, want := range []string{"Pulling from test/app", "Pulling fs layer", "Download complete", "Pull complete", "Digest: " + d.Digest.String(), "Status: Downloaded newer image for " + name} {
		if !l.has(want) {
			t.Errorf("no line %q in %v", want, l.all)
		}
	}
	l = lines{}
	if _, err := s.Pull(ctx, PullOptions{Ref: name}, l.add); err != nil || !l.has("Status: Image is up to date for "+name) || !l.has("Already exists") {
		t.Errorf("second pull: %v %v", err, l.all)
	}

	t.Run("found", func(t *testing.T) {
		hex := d.Digest.Encoded()
		for _, ref := range []string{name, h.host() + "/test/app@" + d.Digest.String(), hex, hex[:12], "sha256:" + hex, img.ConfigDesc.Digest.Encoded()[:16]} {
			if got, err := s.Get(ctx, ref, nil); err != nil || got.ID != d.Digest {
				t.Errorf("%s: %v", ref, err)
			}
		}
		for ref, kind := range map[string]func(error) bool{"nothing": errdefs.IsNotFound, "No_Good:": errdefs.IsInvalidArgument, "Upper": errdefs.IsInvalidArgument, h.host() + "/test/app": errdefs.IsNotFound} {
			if _, err := s.Get(ctx, ref, nil); !kind(err) {
				t.Errorf("%s: %v", ref, err)
			}
		}
		_, err := s.Get(ctx, name, &ocispec.Platform{OS: "plan9", Architecture: "arm64"})
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "does not provide the specified platform") {
			t.Error(err)
		}
	})
	t.Run("root", func(t *testing.T) {
		if !s.overlay {
			t.Skip("needs the overlay")
		}
		m, err := s.Prepare(ctx, "c1", img, nil)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.Mounts(ctx, "c1"); err != nil || !slices.Equal(again[0].Options, m[0].Options) {
			t.Errorf("%v %v", again, err)
		}
		if _, err := s.Prepare(ctx, "c1", img, nil); !errdefs.IsAlreadyExists(err) {
			t.Errorf("taken key: %v", err)
		}
		full := fmt.Errorf("no quota: %w", errdefs.ErrResourceExhausted)
		confine := func(dirs ...string) error {
			for _, d := range dirs {
				if in, err := os.ReadDir(d); err != nil || len(in) > 0 {
					t.Errorf("%s: %v %v", d, in, err)
				}
			}
			return full
		}
		if _, err := s.Prepare(ctx, "c2", img, confine); !errors.Is(err, full) {
			t.Errorf("quota: %v", err)
		}
		lowers := strings.Split(strings.TrimPrefix(m[0].Options[0], "lowerdir="), ":")
		if len(lowers) != 2 {
			t.Fatal(m)
		}
		st, err := os.Lstat(filepath.Join(lowers[0], "etc/a"))
		if err != nil || st.Mode()&os.ModeCharDevice == 0 {
			t.Errorf("no whiteout: %v %v", st, err)
		}
		keys, _ := s.Roots(ctx)
		if !slices.Equal(keys, []string{"c1"}) {
			t.Error(keys)
		}
		// An image in use loses its name, never its layers.
		del, err := s.Delete(ctx, name, false, true, func(digest.Digest) []string { return []string{"0123456789abcdef"} })
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "(must force) - container 0123456789ab is using its referenced image") {
			t.Errorf("%v %v", del, err)
		}
		del, err = s.Delete(ctx, name, true, true, func(digest.Digest) []string { return []string{"0123456789abcdef"} })
		if err != nil || len(del) != 2 || del[0].Untagged != name || del[1].Deleted != d.Digest.String() {
			t.Errorf("%v %v", del, err)
		}
		if err := s.gc.Now(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(lowers[1], "etc/b")); err != nil {
			t.Error(err)
		}
		if _, err := s.Mounts(ctx, "c1"); err != nil {
			t.Error(err)
		}
		if _, err := s.Prepare(ctx, "c3", img, nil); !errdefs.IsNotFound(err) {
			t.Errorf("deleted image: %v", err)
		}
		for range 2 {
			if err := s.Release(ctx, "c1"); err != nil {
				t.Error(err)
			}
		}
		if l := left(t, s); len(l) > 0 {
			t.Errorf("left behind: %v", l)
		}
	})
}

func TestPullIndex(t *testing.T) {
	s, h, ctx := newService(t), newHub(t), context.Background()
	body := layer(t, file{name: "hello", body: "x"})
	arm := ocispec.Platform{OS: "linux", Architecture: "riscv64"}
	d1, _ := h.image(t, "one", host, body)
	d2, m2 := h.image(t, "two", arm, layer(t, file{name: "other", body: "y"}))
	d1.Platform, d2.Platform = &host, &arm
	att := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("attestation"), Size: 3, Platform: &ocispec.Platform{OS: "unknown", Architecture: "unknown"}}
	index := h.manifest("latest", ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{d2, d1, att}})
	ref := h.host() + "/multi"
	img, err := s.Pull(ctx, PullOptions{Ref: ref}, nil)
	if err != nil || img.ID != index.Digest || img.Manifest.Digest != d1.Digest || len(img.Platforms) != 2 {
		t.Fatalf("%v %+v", err, img)
	}
	if h.gets[m2.Layers[0].Digest.String()] != 0 {
		t.Error("another platform's layer was downloaded")
	}
	if _, err := s.Get(ctx, ref, &arm); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if img, err = s.Pull(ctx, PullOptions{Ref: ref, Platform: &arm}, nil); err != nil || img.Manifest.Digest != d2.Digest {
		t.Fatalf("%v", err)
	}
	if img, err = s.Get(ctx, ref, nil); err != nil || img.Manifest.Digest != d1.Digest || !img.Platforms[0].Available || !img.Platforms[1].Available {
		t.Errorf("%v %+v", err, img)
	}
	_, err = s.Pull(ctx, PullOptions{Ref: ref, Platform: &ocispec.Platform{OS: "linux", Architecture: "mips"}}, nil)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "no matching manifest for linux/mips") {
		t.Error(err)
	}
	win := ocispec.Platform{OS: "windows", Architecture: "amd64"}
	h.image(t, "win", win, layer(t, file{name: "Files/x.exe", body: "MZ"}))
	foreign, err := s.Pull(ctx, PullOptions{Ref: ref + ":win", Platform: &win}, nil)
	if err != nil || foreign.Unpacked {
		t.Errorf("%v %+v", err, foreign)
	}
	if _, err := s.Prepare(ctx, "w", foreign, nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "cannot be used on this platform") {
		t.Error(err)
	}
	if _, err := s.Delete(ctx, ref+":win", false, false, nobodyUses); err != nil {
		t.Error(err)
	}
	before := left(t, s)
	if _, err := s.Delete(ctx, index.Digest.String(), false, false, nobodyUses); err != nil {
		t.Error(err)
	}
	if l := left(t, s); len(before) == 0 || len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}

// A pull that breaks goes on where it was: in the same process by asking again,
// in a later one from what was stored.
func TestPullResumes(t *testing.T) {
	h, ctx := newHub(t), context.Background()
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(i*i>>3 ^ i>>7)
	}
	body := layer(t, file{name: "noise", body: string(bytes.Repeat(noise, 2))})
	_, m := h.image(t, "latest", host, body)
	l := m.Layers[0].Digest.String()
	ref := h.host() + "/big"
	t.Run("same process", func(t *testing.T) {
		s := newService(t)
		h.cut[l] = int(m.Layers[0].Size / 2)
		h.ranges = nil
		if _, err := s.Pull(ctx, PullOptions{Ref: ref}, nil); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(h.ranges, func(r string) bool { return strings.HasPrefix(r, "bytes=") && r != "bytes=0-" }) {
			t.Errorf("not resumed: %q", h.ranges)
		}
	})
	t.Run("later process", func(t *testing.T) {
		root := t.TempDir()
		s := newServiceAt(t, root)
		cctx, cancel := context.WithCancel(ctx)
		h.cut[l] = int(m.Layers[0].Size / 2)
		_, err := s.Pull(cctx, PullOptions{Ref: ref}, func(u Update) {
			if u.Status == "Downloading" {
				cancel()
			}
		})
		if err == nil {
			t.Fatal("canceled pull did not fail")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = newServiceAt(t, root)
		if got := left(t, s); !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "ingest ") }) || slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "dir ") }) {
			t.Errorf("partial download or nothing else should be there: %v", got)
		}
		h.ranges = nil
		delete(h.cut, l)
		img, err := s.Pull(ctx, PullOptions{Ref: ref}, nil)
		if err != nil || !img.Unpacked {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(h.ranges, func(r string) bool { return strings.HasPrefix(r, "bytes=") && r != "bytes=0-" }) {
			t.Errorf("not resumed: %q", h.ranges)
		}
	})
}

// Directories that a layer does not list keep the lower layer's attributes.
func TestImpliedDirectories(t *testing.T) {
	s, h, ctx := newService(t), newHub(t), context.Background()
	if !s.overlay {
		t.Skip("needs the overlay")
	}
	_, _ = h.image(t, "latest", host,
		layer(t, file{name: "./", kind: tar.TypeDir, mode: 0o711}, file{name: "var", kind: tar.TypeDir, mode: 0o750, uid: 3, gid: 4}),
		layer(t, file{name: "var/x/y", body: "z"}))
	img, err := s.Pull(ctx, PullOptions{Ref: h.host() + "/i"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lowers, err := s.lowerDirs(ctx, img.ChainID)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]os.FileMode{"": 0o711, "var": 0o750, "var/x": 0o755} {
		st, err := os.Stat(filepath.Join(lowers[0], p))
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%q: %v %v, want %v", p, st.Mode(), err, want)
		}
	}
}

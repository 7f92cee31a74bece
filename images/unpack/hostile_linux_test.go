package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners and devices")
	}
}

// e is a tar entry with the letter t for its type.
type e struct {
	t    byte
	name string
	link string // or a file's content
	mod  func(*tar.Header)
}

func tarOf(t testing.TB, es ...e) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, x := range es {
		h := &tar.Header{Typeflag: x.t, Name: x.name, Mode: 0o755, ModTime: time.Unix(1600000000, 5000), Format: tar.FormatPAX}
		body := ""
		if x.t == tar.TypeReg {
			body = x.link
		} else {
			h.Linkname = x.link
		}
		h.Size = int64(len(body))
		if x.mod != nil {
			x.mod(h)
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// jail is a directory with something around it that must not change.
func jail(t testing.TB) (dir string, check func()) {
	t.Helper()
	around := t.TempDir()
	dir = filepath.Join(around, "layer")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(around, "victim"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		es, err := os.ReadDir(around)
		if err != nil || len(es) != 2 {
			t.Errorf("something got out: %v %v", es, err)
		}
		b, _ := os.ReadFile(filepath.Join(around, "victim"))
		st, err := os.Stat(filepath.Join(around, "victim"))
		if err != nil || string(b) != "untouched" || st.Mode().Perm() != 0o600 || st.Sys().(*unixStat).Nlink != 1 {
			t.Errorf("victim was touched: %q %v", b, st)
		}
	}
}

func run(t testing.TB, dir string, layer []byte, budget int64) error {
	t.Helper()
	_, err := Overlay(context.Background(), bytes.NewReader(layer), dir, Options{Budget: NewBudget(budget), Entries: 1000})
	return err
}

func pax(k, v string) func(*tar.Header) {
	return func(h *tar.Header) { h.PAXRecords = map[string]string{k: v} }
}

// Each of these is refused, with the kind InvalidArgument unless another is
// named, and touches nothing outside.
func TestHostile(t *testing.T) {
	needRoot(t)
	const D, F, S, L, C = tar.TypeDir, tar.TypeReg, tar.TypeSymlink, tar.TypeLink, tar.TypeChar
	deep := strings.Repeat("d/", 1100)
	for name, c := range map[string]struct {
		layer []e
		want  string // part of the message
		kind  func(error) bool
	}{
		"dot dot":              {layer: []e{{t: F, name: "../victim", link: "owned"}}, want: "leads out of the root"},
		"dot dot inside":       {layer: []e{{t: F, name: "a/../../victim", link: "owned"}}, want: "leads out of the root"},
		"absolute dot dot":     {layer: []e{{t: F, name: "/../victim", link: "owned"}}, want: "leads out of the root"},
		"directory dot dot":    {layer: []e{{t: D, name: "..", mod: func(h *tar.Header) { h.Mode = 0o777 }}}, want: "leads out of the root"},
		"hard link out":        {layer: []e{{t: L, name: "x", link: "../victim"}}, want: "leads out of the root"},
		"hard link to nothing": {layer: []e{{t: L, name: "x", link: "nothing"}}, want: "no such file"},
		"hard link to root":    {layer: []e{{t: L, name: "x", link: "/"}}, want: "is the root"},
		"hard link to whiteout": {layer: []e{{t: F, name: ".wh.gone"}, {t: L, name: "x", link: "gone"}},
			want: "which the layer deletes"},
		"hard link through link": {layer: []e{{t: S, name: "up", link: "/.."}, {t: L, name: "x", link: "up/victim"}}, want: "no such file"},
		"symlink out":            {layer: []e{{t: S, name: "a/x", link: "../../victim"}}, want: "leads out of the root"},
		"through dangling link":  {layer: []e{{t: S, name: "x", link: "/../../tmp"}, {t: F, name: "x/f", link: "z"}}, want: "link to nothing"},
		"through loop":           {layer: []e{{t: S, name: "x", link: "y"}, {t: S, name: "y", link: "x"}, {t: F, name: "x/f"}}, want: "too many levels"},
		"through file":           {layer: []e{{t: F, name: "x", link: "1"}, {t: F, name: "x/f", link: "2"}}, want: "not a directory"},
		"root is a file":         {layer: []e{{t: F, name: "a/.."}}, want: "root is not a directory"},
		"whiteout of nothing":    {layer: []e{{t: F, name: "a/.wh."}}, want: "whiteout of nothing"},
		"whiteout of dot dot":    {layer: []e{{t: F, name: "a/.wh..."}}, want: "whiteout of nothing"},
		"whiteout of dot":        {layer: []e{{t: F, name: "a/.wh.."}}, want: "whiteout of nothing"},
		"whiteout directory":     {layer: []e{{t: F, name: ".wh.x/y"}}, want: "is a whiteout, not a directory"},
		"device 0:0":             {layer: []e{{t: C, name: "x"}}, want: "0:0 means a deleted file"},
		"device of no kind":      {layer: []e{{t: C, name: "x", mod: func(h *tar.Header) { h.Devmajor = 1 << 20 }}}, want: "does not exist"},
		"unknown type":           {layer: []e{{t: 'Z', name: "x", mod: func(h *tar.Header) { h.Format = 0 }}}, want: "no layer may hold"},
		"owner":                  {layer: []e{{t: F, name: "x", mod: func(h *tar.Header) { h.Uid = 1 << 32 }}}, want: "owner"},
		"long name":              {layer: []e{{t: F, name: strings.Repeat("x", 300)}}, want: "file name too long"},
		"deep":                   {layer: []e{{t: D, name: strings.Repeat("d/", 3000)}}, want: "name too long"},
		"too many entries":       {layer: []e{{t: F, name: deep + "x"}}, want: "too many entries"},
		"too big":                {layer: []e{{t: F, name: "x", link: strings.Repeat("x", 2<<20)}}, want: "bytes that it may", kind: errdefs.IsFailedPrecondition},
		"big attribute":          {layer: []e{{t: F, name: "x", mod: pax("SCHILY.xattr.user.big", strings.Repeat("x", 100<<10))}}, want: "attribute"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, check := jail(t)
			err := run(t, dir, tarOf(t, c.layer...), 1<<20)
			kind := errdefs.IsInvalidArgument
			if c.kind != nil {
				kind = c.kind
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !kind(err) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			check()
		})
	}
}

// These look bad but are what honest images hold, made safe.
func TestTamed(t *testing.T) {
	needRoot(t)
	const D, F, S, L = tar.TypeDir, tar.TypeReg, tar.TypeSymlink, tar.TypeLink
	dir, check := jail(t)
	err := run(t, dir, tarOf(t,
		e{t: F, name: "/abs/file", link: "1"},
		e{t: D, name: "real"}, e{t: S, name: "link", link: "/real"}, e{t: F, name: "link/f", link: "2"},
		e{t: S, name: "etc", link: "/etc"}, e{t: D, name: "etc/"}, e{t: F, name: "etc/passwd", link: "3"},
		e{t: F, name: "two", link: "a"}, e{t: F, name: "two", link: "b"},
		e{t: D, name: "was"}, e{t: F, name: "was/x"}, e{t: F, name: "was", link: "file"},
		e{t: L, name: "/hard", link: "/abs/file"},
		e{t: F, name: "evil", link: "x", mod: pax("SCHILY.xattr.trusted.overlay.redirect", "/victim")},
		e{t: D, name: "evildir", mod: pax("SCHILY.xattr.trusted.overlay.opaque", "y")},
		e{t: F, name: "note", link: "x", mod: pax("SCHILY.xattr.user.note", "hi")},
		e{t: F, name: "gone/.wh.x"}, e{t: F, name: "fresh/.wh..wh..opq"}, e{t: F, name: ".wh..wh.plnk/1.2"},
		e{t: F, name: ".wh.again"}, e{t: D, name: "again"},
		e{t: D, name: "kept"}, e{t: F, name: ".wh.kept"},
		e{t: F, name: "old", mod: func(h *tar.Header) { h.ModTime = time.Unix(-1<<40, 0) }},
		e{t: F, name: "suid", link: "x", mod: func(h *tar.Header) { h.Mode, h.Uid = 0o4755, 12 }},
	), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	check()
	for p, want := range map[string]string{"abs/file": "1", "real/f": "2", "etc/passwd": "3", "two": "b", "was": "file", "hard": "1"} {
		if b, err := os.ReadFile(filepath.Join(dir, p)); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", p, b, err)
		}
	}
	attr := func(p, k string) string {
		b := make([]byte, 64)
		n, err := unix.Lgetxattr(filepath.Join(dir, p), k, b)
		if err != nil {
			return ""
		}
		return string(b[:n])
	}
	for _, c := range []struct{ p, k, want string }{
		{"evil", "trusted.overlay.redirect", ""}, {"evildir", opaqueXattr, ""}, {"note", "user.note", "hi"},
		{"fresh", opaqueXattr, "y"}, {"again", opaqueXattr, "y"}, {"kept", opaqueXattr, "y"}, {"gone", opaqueXattr, ""},
	} {
		if got := attr(c.p, c.k); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.p, c.k, got, c.want)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "gone/x"), &st); err != nil || !isWhiteout(&st) {
		t.Errorf("no whiteout: %v", err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "suid")); err != nil || fi.Mode() != fs.ModeSetuid|0o755 {
		t.Errorf("%v %v", fi, err)
	}
}

// Damage and bombs in the compression are told apart from trouble of the source.
func TestCompression(t *testing.T) {
	needRoot(t)
	good := tarOf(t, e{t: tar.TypeReg, name: "x", link: strings.Repeat("some text ", 10000)})
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(good)
	w.Close()
	var bomb bytes.Buffer
	zw, _ := zstd.NewWriter(&bomb)
	_, _ = zw.Write(tarOf(t, e{t: tar.TypeReg, name: "x", link: strings.Repeat("\x00", 200<<20)}))
	zw.Close()
	flipped := bytes.Clone(z.Bytes())
	flipped[len(flipped)/2] ^= 0xff
	for _, d := range []Decompressor{{}, FindIgzip()} {
		for name, c := range map[string]struct {
			layer []byte
			want  string
		}{
			"truncated":     {z.Bytes()[:z.Len()/2], "damaged"},
			"flipped":       {flipped, ""},
			"bomb":          {bomb.Bytes(), "decompression bomb"},
			"xz":            {[]byte("\xfd7zXZ\x00abc"), "xz compression is not supported"},
			"not tar":       {bytes.Repeat([]byte("what"), 1000), "not a complete tar"},
			"cut tar":       {good[:2000], "not a complete tar"},
			"empty archive": {nil, ""},
		} {
			dir, check := jail(t)
			_, err := Overlay(context.Background(), bytes.NewReader(c.layer), dir, Options{Decompressor: d, Budget: NewBudget(1 << 30)})
			if name == "empty archive" {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !errdefs.IsInvalidArgument(err) {
				t.Errorf("igzip %q, %s: %v", d.Igzip, name, err)
			}
			check()
		}
		dir, _ := jail(t)
		res, err := Overlay(context.Background(), bytes.NewReader(z.Bytes()), dir, Options{Decompressor: d, Budget: NewBudget(1 << 30)})
		if err != nil || res.DiffID.Encoded() != sum(good) || res.Size != int64(len(good)) {
			t.Errorf("%v %+v", err, res)
		}
	}
}

// FuzzOverlay looks for an entry that gets out, a crash or a hang.
func FuzzOverlay(f *testing.F) {
	needRoot(f)
	f.Add(tarOf(f, e{t: tar.TypeReg, name: "a/b", link: "x"}, e{t: tar.TypeSymlink, name: "c", link: "/a"}, e{t: tar.TypeLink, name: "d", link: "c/b"}))
	f.Add(tarOf(f, e{t: tar.TypeDir, name: "a"}, e{t: tar.TypeReg, name: "a/.wh..wh..opq"}, e{t: tar.TypeReg, name: ".wh.a"}))
	f.Add(tarOf(f, e{t: tar.TypeFifo, name: "p"}, e{t: tar.TypeReg, name: "../x", link: "y"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir, check := jail(t)
		_ = run(t, dir, b, 16<<20)
		check()
	})
}

type unixStat = syscall.Stat_t

func sum(b []byte) string { return digest.FromBytes(b).Encoded() }

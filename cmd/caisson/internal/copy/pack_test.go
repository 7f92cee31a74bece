package copy

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// entry is one file of an archive.
type entry struct {
	name, body, link string
	typ              byte
	mode             int64
}

func archive(t *testing.T, entries ...entry) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.typ == 0 {
			e.typ = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		h := &tar.Header{Name: e.name, Typeflag: e.typ, Linkname: e.link, Mode: e.mode, Size: int64(len(e.body)), ModTime: time.Unix(1e9, 0)}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.body)
	}
	w.Close()
	return &b
}

// tree lists what is below dir, links with their targets.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		rel, _ := filepath.Rel(dir, p)
		rel = filepath.ToSlash(rel)
		switch {
		case rel == ".":
		case d.Type()&fs.ModeSymlink != 0:
			l, _ := os.Readlink(p)
			out = append(out, rel+"->"+l)
		case d.IsDir():
			out = append(out, rel+"/")
		default:
			b, _ := os.ReadFile(p)
			out = append(out, rel+"="+string(b))
		}
		return nil
	})
	return strings.Join(out, " ")
}

// A container's archive must not reach outside of the destination.
func TestHostileArchivesStayInside(t *testing.T) {
	link := func(name, to string) entry { return entry{name: name, link: to, typ: tar.TypeSymlink} }
	for name, entries := range map[string][]entry{
		"dot dot":                    {{name: "../evil", body: "x"}},
		"dot dot inside":             {{name: "a/../../evil", body: "x"}},
		"absolute":                   {{name: "/evil", body: "x"}},
		"through a link":             {link("l", ".."), {name: "l/evil", body: "x"}},
		"through an absolute link":   {link("l", "OUT"), {name: "l/evil", body: "x"}},
		"through a chain of links":   {link("a", "b"), link("b", ".."), {name: "a/evil", body: "x"}},
		"link made a directory":      {link("d", "OUT"), {name: "d", typ: tar.TypeDir}, {name: "d/evil", body: "x"}},
		"over a link":                {link("evil", "OUT/evil"), {name: "evil", body: "x"}},
		"hard link outwards":         {{name: "h", link: "../secret", typ: tar.TypeLink}},
		"hard link to absolute":      {{name: "h", link: "OUT/secret", typ: tar.TypeLink}},
		"hard link through link":     {link("l", ".."), {name: "h", link: "l/secret", typ: tar.TypeLink}},
		"device":                     {{name: "null", typ: tar.TypeChar}},
		"pipe":                       {{name: "fifo", typ: tar.TypeFifo}},
		"directory mode via link":    {{name: "d", typ: tar.TypeDir, mode: 0o777}, {name: "d/../../out", typ: tar.TypeDir, mode: 0o777}},
		"dir replaced by a link":     {{name: "d", typ: tar.TypeDir}, link("d", "OUT"), {name: "d/evil", body: "x"}},
		"file made a directory":      {{name: "f", body: "x"}, {name: "f/evil", body: "x"}},
		"windows drive and backward": {{name: `..\evil`, body: "x"}, {name: `C:\evil`, body: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			out, dst := filepath.Join(top, "out"), filepath.Join(top, "dst")
			os.Mkdir(out, 0o700)
			os.Mkdir(dst, 0o755)
			os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o600)
			os.WriteFile(filepath.Join(out, "secret"), []byte("secret"), 0o600)
			before := tree(t, out)
			for i := range entries {
				entries[i].link = strings.Replace(entries[i].link, "OUT", out, 1)
			}
			Unpack(archive(t, entries...), dst, Options{Archive: true, Skipped: func(string, string) {}})
			if after := tree(t, out); after != before {
				t.Errorf("outside changed: %s, was %s", after, before)
			}
			names, _ := os.ReadDir(top)
			if len(names) != 3 {
				t.Errorf("beside the destination: %v", names)
			}
			if fi, _ := os.Stat(out); fi.Mode().Perm() != 0o700 {
				t.Errorf("mode outside changed to %v", fi.Mode())
			}
			filepath.WalkDir(dst, func(p string, d fs.DirEntry, _ error) error {
				if d.Type().IsRegular() {
					if b, _ := os.ReadFile(p); string(b) == "secret" {
						t.Errorf("%s is a secret from outside", p)
					}
				}
				if d.Type()&(fs.ModeDevice|fs.ModeNamedPipe) != 0 {
					t.Errorf("%s is a device or pipe", p)
				}
				return nil
			})
		})
	}
}

func TestTruncatedAndBrokenArchives(t *testing.T) {
	whole := archive(t, entry{name: "a", body: strings.Repeat("x", 5000)}).Bytes()
	for _, n := range []int{1, 511, 513, 3000} {
		if err := Unpack(bytes.NewReader(whole[:n]), t.TempDir(), Options{}); err == nil {
			t.Errorf("%d bytes of %d were taken for an archive", n, len(whole))
		}
	}
}

func TestUnpackModes(t *testing.T) {
	in := []entry{{name: "d", typ: tar.TypeDir, mode: 0o550}, {name: "d/f", body: "x", mode: 0o4755}}
	dst := t.TempDir()
	if err := Unpack(archive(t, in...), dst, Options{}); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dst, "d/f"))
	if err != nil || fi.Mode() != 0o755 || fi.ModTime().Unix() != 1e9 {
		t.Errorf("%v %v: set-user-id bits need --archive", fi, err)
	}
	if fi, err := os.Stat(filepath.Join(dst, "d")); err != nil || fi.Mode().Perm() != 0o550 {
		t.Errorf("%v %v", fi, err)
	}
	os.Chmod(filepath.Join(dst, "d"), 0o700)
	dst = t.TempDir()
	if err := Unpack(archive(t, in...), dst, Options{Archive: true}); err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Stat(filepath.Join(dst, "d/f")); fi.Mode()&fs.ModeSetuid == 0 {
		t.Error("--archive lost the set-user-id bit")
	}
	os.Chmod(filepath.Join(dst, "d"), 0o700)
}

func TestRename(t *testing.T) {
	for _, x := range []struct {
		from, to string
		in       []entry
		want     string
	}{
		{"src", "new", []entry{{name: "src/", typ: tar.TypeDir, mode: 0o755}, {name: "src/a", body: "1"}, {name: "src/h", link: "src/a", typ: tar.TypeLink}}, "new/ new/a=1 new/h=1"},
		{"src", "src", []entry{{name: "src", body: "1"}}, "src=1"},
		{".", "", []entry{{name: "./", typ: tar.TypeDir, mode: 0o755}, {name: "./a", body: "1"}}, "a=1"},
		{".", "new", []entry{{name: "./", typ: tar.TypeDir, mode: 0o755}, {name: "./a", body: "1"}}, "new/ new/a=1"},
		{"l", "m", []entry{{name: "l", link: "target", typ: tar.TypeSymlink}}, "m->target"},
	} {
		dst := t.TempDir()
		if err := Unpack(archive(t, x.in...), dst, Options{From: x.from, To: x.to}); err != nil {
			t.Errorf("%s to %s: %v", x.from, x.to, err)
		}
		if got := tree(t, dst); got != x.want {
			t.Errorf("%s to %s: %s, want %s", x.from, x.to, got, x.want)
		}
	}
}

func TestPackAndUnpackGiveTheSame(t *testing.T) {
	src := t.TempDir()
	os.MkdirAll(filepath.Join(src, "d/e"), 0o755)
	os.WriteFile(filepath.Join(src, "d/f"), []byte("text"), 0o640)
	os.WriteFile(filepath.Join(src, "empty"), nil, 0o600)
	os.Symlink("d/f", filepath.Join(src, "l"))
	os.Link(filepath.Join(src, "d/f"), filepath.Join(src, "h"))
	for _, name := range []string{".", "x", "x/y"} {
		var b bytes.Buffer
		if err := Pack(&b, src, name); err != nil {
			t.Fatal(err)
		}
		dst := t.TempDir()
		if err := Unpack(&b, dst, Options{}); err != nil {
			t.Fatal(err)
		}
		if got, want := tree(t, filepath.Join(dst, name)), tree(t, src); got != want {
			t.Errorf("as %s: %s, want %s", name, got, want)
		}
		a, _ := os.Stat(filepath.Join(dst, name, "d/f"))
		h, _ := os.Stat(filepath.Join(dst, name, "h"))
		if !os.SameFile(a, h) {
			t.Error("a file with two names became two files")
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add("a/b", "../../x", byte(tar.TypeSymlink), "a/b/c", byte(tar.TypeReg))
	f.Add("a", "/", byte(tar.TypeLink), "a", byte(tar.TypeDir))
	f.Fuzz(func(t *testing.T, n1, l1 string, t1 byte, n2 string, t2 byte) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []*tar.Header{{Name: n1, Linkname: l1, Typeflag: t1, Mode: 0o600}, {Name: n2, Linkname: l1, Typeflag: t2, Mode: 0o600}} {
			if w.WriteHeader(h) != nil {
				return
			}
		}
		w.Close()
		top := t.TempDir()
		dst := filepath.Join(top, "a", "b")
		os.MkdirAll(dst, 0o755)
		Unpack(&b, dst, Options{Skipped: func(string, string) {}})
		for dir, want := range map[string]int{top: 1, filepath.Join(top, "a"): 1} {
			if names, _ := os.ReadDir(dir); len(names) != want {
				t.Errorf("beside the destination: %v", names)
			}
		}
	})
}

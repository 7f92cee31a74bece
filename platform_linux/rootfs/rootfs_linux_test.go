package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: overlay mounts and mount namespaces")
	}
}

// fixture is an overlay root: two image layers and a writable one.
type fixture struct {
	lower1, lower2, upper string
	mounts                []Mount
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	needRoot(t)
	base := t.TempDir()
	f := fixture{lower1: filepath.Join(base, "l1"), lower2: filepath.Join(base, "l2"), upper: filepath.Join(base, "u")}
	work := filepath.Join(base, "w")
	for _, d := range []string{f.lower1, f.lower2, f.upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, f.lower1, "etc/passwd", "root:x:0:0\n")
	write(t, f.lower1, "etc/old", "old")
	write(t, f.lower1, "opt/a/deep", "deep")
	write(t, f.lower2, "etc/over", "two")
	f.mounts = []Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + f.lower2 + ":" + f.lower1, "upperdir=" + f.upper, "workdir=" + work,
	}}}
	return f
}

func write(t *testing.T, root, name, content string) {
	t.Helper()
	p := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (f fixture) open(t *testing.T, mounts ...Mount) *Root {
	t.Helper()
	r, err := OpenDetached(f.mounts, mounts, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

type entry struct{ name, content string }

func list(t *testing.T, r io.ReadCloser) []entry {
	t.Helper()
	defer r.Close()
	var all []entry
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{h.Name, string(b)})
	}
}

func archive(t *testing.T, headers ...*tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		body := h.Uname // the tests' place for a file's content
		h.Uname = ""
		h.Size = int64(len(body))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestReadAndWriteMerged(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	rc, err := r.ReadArchive("/etc")
	if err != nil {
		t.Fatal(err)
	}
	want := []entry{{"etc/", ""}, {"etc/old", "old"}, {"etc/over", "two"}, {"etc/passwd", "root:x:0:0\n"}}
	if got := list(t, rc); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := r.WriteArchive("/etc", archive(t,
		&tar.Header{Typeflag: tar.TypeDir, Name: "new/", Mode: 0o750},
		&tar.Header{Typeflag: tar.TypeReg, Name: "new/f", Uname: "hi", Mode: 0o4755, Uid: 7, Gid: 8},
		&tar.Header{Typeflag: tar.TypeLink, Name: "new/hard", Linkname: "new/f"},
		&tar.Header{Typeflag: tar.TypeSymlink, Name: "new/soft", Linkname: "/etc/passwd"},
	), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(f.upper, "etc/new/f"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o4755 || st.Uid != 7 || st.Gid != 8 || st.Nlink != 2 {
		t.Errorf("mode %o uid %d gid %d links %d", st.Mode, st.Uid, st.Gid, st.Nlink)
	}
	s, err := r.Stat("/etc/new/soft")
	if err != nil || s.LinkTarget != "/etc/passwd" || s.Mode&os.ModeSymlink == 0 {
		t.Errorf("stat of a symlink: %+v, %v", s, err)
	}
}

func TestRootItselfIsDot(t *testing.T) {
	r := newFixture(t).open(t)
	for _, p := range []string{"/", "/."} {
		rc, err := r.ReadArchive(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := list(t, rc); got[0].name != "./" || got[1].name != "etc/" {
			t.Errorf("%s: %v", p, got)
		}
	}
}

func TestVolumesAreSeenThrough(t *testing.T) {
	f := newFixture(t)
	vol := t.TempDir()
	write(t, vol, "data", "in volume")
	r := f.open(t, Mount{Type: "bind", Source: vol, Target: "/opt/a"})
	rc, err := r.ReadArchive("/opt")
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, rc); !slices.Contains(got, entry{"opt/a/data", "in volume"}) {
		t.Errorf("%v", got)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), f.upper) {
		t.Error("the detached root is mounted in this namespace")
	}
}

// CVE-2018-15664 and its kin: a symlink in the container leads inside it only.
func TestSymlinksStayInside(t *testing.T) {
	f := newFixture(t)
	outside := t.TempDir()
	write(t, outside, "secret", "host's")
	if err := os.Symlink(outside, filepath.Join(f.upper, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../../.."+outside, filepath.Join(f.upper, "up")); err != nil {
		t.Fatal(err)
	}
	r := f.open(t)
	for _, p := range []string{"/out/secret", "/up/secret", "/out/../.." + outside + "/secret", "/proc/self/root/etc/passwd"} {
		if rc, err := r.ReadArchive(p); !errdefs.IsNotFound(err) {
			if err == nil {
				rc.Close()
			}
			t.Errorf("read %s: %v, want not found", p, err)
		}
		if err := r.WriteArchive(filepath.Dir(p), archive(t, &tar.Header{Typeflag: tar.TypeReg, Name: "secret", Uname: "mine"}), WriteOptions{}); err == nil {
			t.Errorf("write into %s succeeded", filepath.Dir(p))
		}
	}
	if b, _ := os.ReadFile(filepath.Join(outside, "secret")); string(b) != "host's" {
		t.Errorf("the host's file is now %q", b)
	}
}

func TestHostileArchives(t *testing.T) {
	for name, headers := range map[string][]*tar.Header{
		"dotdot":        {{Typeflag: tar.TypeReg, Name: "../x", Uname: "x"}},
		"inner dotdot":  {{Typeflag: tar.TypeReg, Name: "a/../../x", Uname: "x"}},
		"hard link out": {{Typeflag: tar.TypeLink, Name: "x", Linkname: "../../etc/shadow"}},
		"device":        {{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}},
		"file as root":  {{Typeflag: tar.TypeReg, Name: ".", Uname: "x"}},
		"unknown type":  {{Typeflag: 'Z', Name: "z"}},
		"through link": {
			{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/nowhere/at/all"},
			{Typeflag: tar.TypeReg, Name: "l/x", Uname: "x"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			err := f.open(t).WriteArchive("/opt", archive(t, headers...), WriteOptions{})
			if err == nil {
				t.Fatal("accepted")
			}
			if errdefs.IsUnknown(err) || (!errdefs.IsInvalidArgument(err) && !errdefs.IsPermissionDenied(err) && !errdefs.IsNotFound(err)) {
				t.Errorf("error without a kind: %v", err)
			}
			for _, p := range []string{"x", "opt/x", "opt/sda"} {
				if _, err := os.Lstat(filepath.Join(f.upper, p)); err == nil {
					t.Errorf("%s was made", p)
				}
			}
		})
	}
}

func TestNoOverwriteDirNonDir(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	file := &tar.Header{Typeflag: tar.TypeReg, Name: "a", Uname: "file now"}
	if err := r.WriteArchive("/opt", archive(t, file), WriteOptions{NoOverwriteDirNonDir: true}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("replaced a directory: %v", err)
	}
	file.Uname = "file now"
	if err := r.WriteArchive("/opt", archive(t, file), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if s, err := r.Stat("/opt/a"); err != nil || !s.Mode.IsRegular() {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestDroppedAttributes(t *testing.T) {
	f := newFixture(t)
	h := &tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755, PAXRecords: map[string]string{
		paxXattr + "trusted.overlay.opaque": "y", paxXattr + "user.kept": "1",
	}}
	if err := f.open(t).WriteArchive("/opt", archive(t, h), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(filepath.Join(f.upper, "opt/d"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	value := make([]byte, 8)
	if n, err := unix.Fgetxattr(int(d.Fd()), "user.kept", value); err != nil || string(value[:n]) != "1" {
		t.Errorf("user.kept: %q, %v", value[:max(n, 0)], err)
	}
}

func TestChangesAndDiff(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	if err := r.WriteArchive("/", archive(t,
		&tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Uname: "changed"},
		&tar.Header{Typeflag: tar.TypeReg, Name: "fresh/file", Uname: "new"},
	), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	removed := &extractor{root: r}
	if etc, err := removed.open("etc", 0); err != nil || removeAll(int(etc.Fd()), "old", 0) != nil {
		t.Fatal("remove /etc/old", err)
	}
	root, err := removed.open("/", 0)
	if err != nil {
		t.Fatal(err)
	}
	// opt is removed and made anew: opaque.
	if err := removeAll(int(root.Fd()), "opt", 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkdirat(int(root.Fd()), "opt", 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := ParseOverlay(f.mounts)
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Changes()
	if err != nil {
		t.Fatal(err)
	}
	want := []Change{
		{"/etc", Modified}, {"/etc/old", Deleted}, {"/etc/passwd", Modified},
		{"/fresh", Added}, {"/fresh/file", Added},
		{"/opt", Modified}, {"/opt/a", Deleted},
	}
	if !slices.Equal(got, want) {
		t.Errorf("changes:\n got %v\nwant %v", got, want)
	}
	rc, err := l.Diff()
	if err != nil {
		t.Fatal(err)
	}
	entries := list(t, rc)
	for _, e := range []entry{{"etc/.wh.old", ""}, {"etc/passwd", "changed"}, {"fresh/file", "new"}, {"opt/.wh..wh..opq", ""}} {
		if !slices.Contains(entries, e) {
			t.Errorf("diff lacks %v: %v", e, entries)
		}
	}
}

// A root opened for reading shows the writable layer without writing to it.
func TestReadOnlyView(t *testing.T) {
	f := newFixture(t)
	write(t, f.upper, "etc/upper", "up")
	r, err := OpenDetached(f.mounts, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rc, err := r.ReadArchive("/etc")
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, rc); !slices.Contains(got, entry{"etc/upper", "up"}) || !slices.Contains(got, entry{"etc/over", "two"}) {
		t.Errorf("%v", got)
	}
	if err := r.WriteArchive("/etc", archive(t, &tar.Header{Typeflag: tar.TypeReg, Name: "x", Uname: "x"}), WriteOptions{}); err == nil {
		t.Error("wrote through a read-only view")
	}
}

func TestSplitLower(t *testing.T) {
	if got := fmt.Sprint(splitLower(`/a:/b\:c:/d\\e`)); got != `[/a /b:c /d\e]` {
		t.Error(got)
	}
}

func FuzzWriteArchive(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: mount namespaces")
	}
	dir := f.TempDir()
	inside := filepath.Join(dir, "root")
	if err := os.Mkdir(inside, 0o755); err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."})
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "l/x"})
	w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		fd, err := unix.Open(inside, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		r := &Root{dir: os.NewFile(uintptr(fd), "/")}
		defer r.Close()
		_ = r.WriteArchive("/", bytes.NewReader(data), WriteOptions{Chown: &Owner{}})
		names, err := os.ReadDir(dir)
		if err != nil || len(names) != 1 {
			t.Fatalf("something was made outside the root: %v, %v", names, err)
		}
	})
}

// What is made only to mount something on it is no change.
func TestScaffoldIsNoChange(t *testing.T) {
	f := newFixture(t)
	for _, d := range []string{"dev", "proc", "sys", "etc"} {
		if err := os.MkdirAll(filepath.Join(f.upper, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		write(t, f.upper, "etc/"+name, "")
	}
	changes := func() []Change {
		t.Helper()
		l, err := ParseOverlay(f.mounts)
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Changes()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := changes(); len(got) != 0 {
		t.Errorf("changes: %v, want none", got)
	}
	write(t, f.upper, "etc/hosts", "own")
	write(t, f.upper, "dev/x", "own")
	if got, want := changes(), []Change{{"/dev", Added}, {"/dev/x", Added}, {"/etc", Modified}, {"/etc/hosts", Added}}; !slices.Equal(got, want) {
		t.Errorf("changes: %v, want %v", got, want)
	}
}

package volmount

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// directory is a test's own, of a mount namespace in which nothing leaves the test.
func directory(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	dir := t.TempDir()
	t.Cleanup(func() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			if err := Unmount(filepath.Join(dir, e.Name())); err != nil {
				t.Error(err)
			}
		}
	})
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMount(t *testing.T) {
	dir := directory(t)
	at, from := filepath.Join(dir, "at"), filepath.Join(dir, "from")
	write(t, filepath.Join(from, "file"), "from")
	for range 2 { // what is mounted stays
		if err := Mount(at, Device{Type: "none", Source: from, Bind: true, Options: []string{"ro"}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, filepath.Join(at, "file")); got != "from" {
		t.Errorf("%q", got)
	}
	if err := os.WriteFile(filepath.Join(at, "new"), nil, 0o600); err == nil {
		t.Error("it is not read-only")
	}
	for range 2 {
		if err := Unmount(at); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := os.ReadDir(at); err != nil || len(entries) > 0 {
		t.Errorf("%v %v", entries, err)
	}
	if err := Mount(at, Device{Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k", "mode=700", "nosuid"}}); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Blocks*uint64(fs.Bsize) != 64<<10 || fs.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("%+v %v", fs, err)
	}
	for what, d := range map[string]Device{
		"no such path": {Type: "none", Source: filepath.Join(dir, "nosuch"), Bind: true},
		"no such type": {Type: "nosuch", Source: "x"},
		"an option":    {Type: "tmpfs", Source: "tmpfs", Options: []string{"whatever=1"}},
		"a bind":       {Type: "tmpfs", Source: "/etc", Options: []string{"bind"}},
	} {
		if err := Mount(filepath.Join(dir, "bad"), d); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A part is found inside, whatever links say.
func TestPart(t *testing.T) {
	dir := directory(t)
	root := filepath.Join(dir, "root")
	write(t, filepath.Join(root, "a/file"), "inside")
	write(t, filepath.Join(dir, "secret/file"), "outside")
	for name, to := range map[string]string{"in": "a", "out": "../secret", "abs": filepath.Join(dir, "secret"), "rooted": "/a"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ path, want string }{
		{"a", "inside"}, {"in", "inside"}, {"rooted", "inside"}, {"out", ""}, {"abs", ""}, {"../secret", ""}, {"nosuch", ""},
	} {
		at := filepath.Join(dir, "part-"+strings.ReplaceAll(c.path, "/", "_"))
		err := Part(root, c.path, at)
		switch {
		case (err == nil) != (c.want != ""):
			t.Errorf("%s: %v", c.path, err)
		case err == nil:
			if got := read(t, filepath.Join(at, "file")); got != c.want {
				t.Errorf("%s: %q", c.path, got)
			}
		}
	}
	at := filepath.Join(dir, "part-file")
	if err := Part(root, "a/file", at); err != nil || read(t, at) != "inside" {
		t.Errorf("a file: %v", err)
	}
}

func TestPackAndUnpack(t *testing.T) {
	dir := directory(t)
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	write(t, filepath.Join(from, "sub/file"), "text")
	if err := os.Chown(from, 7, 8); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(from, 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := Pack(from)
	if err != nil {
		t.Fatal(err)
	}
	tar, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(to, bytes.NewReader(tar), false); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(to, &st); err != nil || st.Uid != 7 || st.Gid != 8 || st.Mode&0o777 != 0o700 || read(t, filepath.Join(to, "sub/file")) != "text" {
		t.Errorf("%+v %v", st, err)
	}
}

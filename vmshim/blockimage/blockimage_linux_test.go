package blockimage

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func needs(t *testing.T, tools ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("layers are merged by a mount, which needs root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
}

func open(t *testing.T, opts Options) *Store {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = filepath.Join(t.TempDir(), "store")
	}
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// layer makes a directory of files.
func layer(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// mounted mounts an image through a loop device and returns where.
func mounted(t *testing.T, f *os.File, kind string) string {
	t.Helper()
	if data, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(data), "\t"+kind+"\n") {
		t.Skipf("this kernel has no %s to look into it with", kind)
	}
	dir := t.TempDir()
	option := "loop,ro"
	if kind == "ext4" {
		option = "loop"
	}
	if out, err := exec.Command("mount", "-t", kind, "-o", option, f.Name(), dir).CombinedOutput(); err != nil {
		t.Skipf("no loop devices here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// The tool's own word for what is in an image, for kernels that can not mount it.
func dump(t *testing.T, f *os.File, path string) (string, error) {
	t.Helper()
	out, err := exec.Command("dump.erofs", "--path="+path, f.Name()).CombinedOutput()
	return string(out), err
}

func image(t *testing.T, s *Store, layers []string, key string) (*os.File, func()) {
	t.Helper()
	f, release, err := s.Image(t.Context(), layers, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, release
}

// Upper layers win, whiteouts hide, and what a package's files are survives:
// owner, mode, time, links, capabilities.
func TestImageIsTheMergedLayers(t *testing.T) {
	needs(t, "mkfs.erofs", "dump.erofs")
	lower := layer(t, map[string]string{"etc/a": "lower", "etc/b": "lower", "etc/gone": "lower", "bin/tool": "program"})
	upper := layer(t, map[string]string{"etc/a": "upper, and longer"})
	if err := unix.Mknod(filepath.Join(upper, "etc/gone"), unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	tool := filepath.Join(lower, "bin/tool")
	when := time.Unix(1_000_000_000, 0)
	for _, err := range []error{
		os.Chown(tool, 123456, 70000), os.Chmod(tool, 0o755|os.ModeSetuid), os.Chtimes(tool, when, when),
		os.Link(tool, filepath.Join(lower, "bin/same")), os.Symlink("tool", filepath.Join(lower, "bin/link")),
		unix.Setxattr(filepath.Join(lower, "etc/b"), "user.note", []byte("kept"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Options{})
	f, release := image(t, s, []string{upper, lower}, "two")
	defer release()

	for path, want := range map[string][]string{
		"/etc/a":    {"Size: 17 "},
		"/etc/b":    {"Size: 5 "},
		"/bin/tool": {"Uid: 123456", "Gid: 70000", "Links: 2", "Timestamp: 2001-09-09"},
		"/bin/link": {"symlink"},
	} {
		out, err := dump(t, f, path)
		for _, w := range want {
			if err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), strings.TrimSpace(w)) {
				t.Errorf("%s: %v, no %q in\n%s", path, err, w, out)
			}
		}
	}
	if out, err := dump(t, f, "/etc/gone"); err == nil && !strings.Contains(out, "<E>") {
		t.Errorf("a deleted file is there:\n%s", out)
	}
	if data, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(data), "/merged ") {
		t.Errorf("the layers are still mounted (%v)", err)
	}

	t.Run("mounted", func(t *testing.T) {
		dir := mounted(t, f, "erofs")
		if data, err := os.ReadFile(filepath.Join(dir, "etc/a")); err != nil || string(data) != "upper, and longer" {
			t.Errorf("%q, %v", data, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "bin/tool"), &st); err != nil || st.Mode&0o7777 != 0o4755 || st.Uid != 123456 || st.Mtim.Sec != when.Unix() {
			t.Errorf("bin/tool: %+v, %v", st, err)
		}
		value := make([]byte, 64)
		if n, err := unix.Getxattr(filepath.Join(dir, "etc/b"), "user.note", value); err != nil || string(value[:max(n, 0)]) != "kept" {
			t.Errorf("extended attribute %q, %v", value[:max(n, 0)], err)
		}
	})
}

// More layers, with longer names, than a mount's options have room for.
func TestManyLayers(t *testing.T) {
	needs(t, "mkfs.erofs", "dump.erofs")
	var layers []string
	for range 120 {
		layers = append(layers, layer(t, map[string]string{"file": "x"}))
	}
	s := open(t, Options{})
	f, release := image(t, s, layers, "many")
	defer release()
	if out, err := dump(t, f, "/file"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Twenty that want one image at once get one image, made once; a second store
// finds it.
func TestImageIsMadeOnce(t *testing.T) {
	needs(t, "mkfs.erofs")
	s := open(t, Options{})
	layers := []string{layer(t, map[string]string{"a": "a"})}
	inodes := make([]uint64, 20)
	var all sync.WaitGroup
	for i := range inodes {
		all.Go(func() {
			f, release, err := s.Image(t.Context(), layers, "one")
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			defer f.Close()
			var st unix.Stat_t
			if err := unix.Fstat(int(f.Fd()), &st); err != nil {
				t.Error(err)
			}
			inodes[i] = st.Ino
		})
	}
	all.Wait()
	for _, n := range inodes {
		if n != inodes[0] {
			t.Errorf("inodes %v", inodes)
			break
		}
	}
	again := open(t, s.opts)
	f, release := image(t, again, layers, "one")
	release()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Ino != inodes[0] {
		t.Errorf("inode %d, %v; want %d", st.Ino, err, inodes[0])
	}
}

// Images of deleted layers go, old ones go when there are too many, and none that
// is in use.
func TestCollect(t *testing.T) {
	needs(t, "mkfs.erofs")
	big := strings.Repeat("x", 1<<20)
	s := open(t, Options{MaxBytes: 5 << 19}) // two and a half
	keys := []string{"a", "b", "c"}
	dirs := map[string]string{}
	releases := map[string]func(){}
	for i, key := range keys {
		dirs[key] = layer(t, map[string]string{"big": big})
		_, releases[key] = image(t, s, []string{dirs[key]}, key)
		// The order in which they were used, whatever the clock's grain is.
		when := time.Now().Add(time.Duration(i-10) * time.Minute)
		if err := os.Chtimes(filepath.Join(s.opts.Dir, key+imageSuffix), when, when); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want ...string) {
		t.Helper()
		if err := s.Collect(); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(s.opts.Dir, "*"+imageSuffix))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range files {
			got = append(got, strings.TrimSuffix(filepath.Base(f), imageSuffix))
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("there is %v, want %v", got, want)
		}
	}
	check("a", "b", "c") // all in use
	releases["b"]()
	releases["b"]() // once is enough
	check("a", "c")
	releases["a"]()
	check("a", "c") // within the bound
	if err := os.RemoveAll(dirs["a"]); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dirs["c"]); err != nil {
		t.Fatal(err)
	}
	check("c") // in use
	releases["c"]()
	check()
	left, err := os.ReadDir(s.opts.Dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestImageRefuses(t *testing.T) {
	needs(t, "mkfs.erofs")
	s := open(t, Options{})
	good := []string{layer(t, nil)}
	for name, try := range map[string]struct {
		layers []string
		key    string
	}{
		"a path as key":  {good, "../x"},
		"no key":         {good, ""},
		"no layers":      {nil, "x"},
		"a layer's gone": {[]string{"/nonesuch"}, "x"},
		"one of two":     {append([]string{"/nonesuch"}, good...), "y"},
	} {
		if f, _, err := s.Image(t.Context(), try.layers, try.key); err == nil {
			f.Close()
			t.Errorf("%s: made", name)
		}
	}
	if n := len(s.open); n != 0 {
		t.Errorf("%d images count as open", n)
	}
	if n, _, err := s.Usage(); n != 0 || err != nil {
		t.Errorf("%d images, %v", n, err)
	}
}

// A scratch disk is as large as asked, takes little, and is a whole file system.
func TestScratch(t *testing.T) {
	needs(t, "mkfs.ext4", "e2fsck")
	s := open(t, Options{})
	dir := t.TempDir()
	for i, name := range []string{"first", "second"} {
		at := time.Now()
		f, err := s.Scratch(t.Context(), filepath.Join(dir, name), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s after %v", name, time.Since(at))
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size != 1<<30 || st.Blocks*512 > 8<<20 {
			t.Errorf("%d: size %d, on disk %d, %v", i, st.Size, st.Blocks*512, err)
		}
		if out, err := exec.Command("e2fsck", "-fn", f.Name()).CombinedOutput(); err != nil {
			t.Errorf("e2fsck: %v\n%s", err, out)
		}
	}
	if _, err := s.Scratch(t.Context(), filepath.Join(dir, "first"), 1<<30); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("a second one at one place: %v", err)
	}
	if _, err := s.Scratch(t.Context(), filepath.Join(dir, "small"), 1<<20); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("too small: %v", err)
	}
}

// Who gave up waiting does not undo it for others.
func TestImageCancelled(t *testing.T) {
	needs(t, "mkfs.erofs")
	s := open(t, Options{})
	layers := []string{layer(t, map[string]string{"a": strings.Repeat("x", 8<<20)})}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if f, _, err := s.Image(ctx, layers, "k"); err == nil {
		f.Close()
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_, release := image(t, s, layers, "k")
	release()
}

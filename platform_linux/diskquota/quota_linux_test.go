package diskquota

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Measuring counts blocks, each file once, and follows nothing out of the tree.
func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	measure := func(dirs ...string) int64 {
		t.Helper()
		n, err := Open(dir).Measure(context.Background(), dirs...)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write("a/x/y/file", 1<<20)
	write("b/large", 4<<20)
	base := measure(a)
	if base < 1<<20 || base > 1<<20+64<<10 {
		t.Errorf("a: %d", base)
	}
	for _, err := range []error{
		os.Link(filepath.Join(a, "x/y/file"), filepath.Join(a, "again")),
		os.Symlink(b, filepath.Join(a, "link")),
		unix.Mkfifo(filepath.Join(a, "fifo"), 0o600), // which must not be opened
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := measure(a); got != base {
		t.Errorf("a with links: %d, not %d", got, base)
	}
	if got := measure(a, b, filepath.Join(dir, "nosuch")); got < base+4<<20 {
		t.Errorf("both: %d", got)
	}
	f, err := os.Create(filepath.Join(b, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	if got := measure(b); got > 5<<20 {
		t.Errorf("a hole is counted: %d", got)
	}
}

// A file system without project quotas says what it needs.
func TestNoProjectQuotas(t *testing.T) {
	f := Open("/proc")
	if err := f.Problem(); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "must be ext4 or xfs") {
		t.Errorf("%v", err)
	}
	if err := f.Limit(1, "/proc"); !errors.Is(err, f.Problem()) {
		t.Errorf("%v", err)
	}
}

// The kernel keeps limits, of what was there and of what is made later.
func TestProjectQuota(t *testing.T) {
	dir := mounted(t)
	fs := Open(dir)
	if err := fs.Problem(); err != nil {
		t.Fatal(err)
	}
	home, layer := filepath.Join(dir, "home"), filepath.Join(dir, "layer")
	for _, d := range []string{filepath.Join(home, "old"), layer} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fill := func(path string, size int) error { return os.WriteFile(path, make([]byte, size), 0o644) }
	if err := fill(filepath.Join(home, "old", "file"), 1<<20); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it may be repeated
		if err := fs.Limit(4<<20, home); err != nil {
			t.Fatal(err)
		}
		if err := fs.Join(home, layer); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := fs.Used(home); err != nil || n < 1<<20 || n > 1<<20+64<<10 {
		t.Errorf("used: %d %v", n, err)
	}
	if err := fill(filepath.Join(layer, "more"), 2<<20); err != nil {
		t.Error(err)
	}
	if err := asContainer(t, func() error { return fill(filepath.Join(home, "old", "much"), 2<<20) }); !errors.Is(err, unix.EDQUOT) {
		t.Errorf("over the limit: %v", err)
	}
	if err := fill(filepath.Join(dir, "elsewhere"), 8<<20); err != nil {
		t.Error(err)
	}
	if err := fs.Limit(0, home); err != nil {
		t.Fatal(err)
	}
	if err := fill(filepath.Join(home, "old", "much"), 8<<20); err != nil {
		t.Errorf("after the limit was lifted: %v", err)
	}
}

// asContainer runs f without the capability that ext4 lets write beyond limits.
// Containers lack it, and the kernel's overlay puts it down.
func asContainer(t *testing.T, f func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&hdr, &data[0])
		if err == nil {
			data[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
			err = unix.Capset(&hdr, &data[0])
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// mounted is a file system with project quotas: this one, or a small new one.
func mounted(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	dir := t.TempDir()
	if Open(dir).Problem() == nil {
		return dir
	}
	img, at := filepath.Join(dir, "img"), filepath.Join(dir, "mnt")
	if err := errors.Join(os.WriteFile(img, nil, 0o600), os.Truncate(img, 64<<20), os.Mkdir(at, 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", img).CombinedOutput(); err != nil {
		t.Skipf("needs mkfs.ext4: %v %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop,prjquota", img, at).CombinedOutput(); err != nil {
		t.Skipf("needs a kernel with project quotas for ext4 (CONFIG_QFMT_V2): %v %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	return at
}

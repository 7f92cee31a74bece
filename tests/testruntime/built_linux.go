package testruntime

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/caisson-engine/caisson/tests/testimage"
)

// built returns the program called name in the cache's directory dir, which
// names its version. Where it is not there yet, build makes it, once whoever
// else waits for it.
func built(t testing.TB, dir, name string, build func(dir string) *exec.Cmd) string {
	t.Helper()
	cache, err := testimage.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(cache, dir)
	path := filepath.Join(dir, name)
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := build(dir)
	// Neither our module nor another platform is meant. With cgo a program needs
	// a dynamic loader, which runsc's own chroot lacks.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOBIN="+dir, "GOOS=", "GOARCH=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, out[max(0, len(out)-4000):])
	}
	return path
}

package testruntime

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/caisson-engine/caisson/tests/testimage"
)

// RunscVersion is the version of gVisor that is tested. It is a tool of the
// tests, built from the module proxy; no package of ours imports it.
const RunscVersion = "v0.0.0-20260701204157-69c2d17aea96"

// Runsc returns the path of gVisor's runsc, which is built once and kept by
// version. It takes a minute or two.
func Runsc(t testing.TB) string {
	t.Helper()
	dir, err := testimage.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, "runsc-"+RunscVersion)
	path := filepath.Join(dir, "runsc")
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
	cmd := exec.Command("go", "install", "-trimpath", "-ldflags=-s -w", "gvisor.dev/gvisor/runsc@"+RunscVersion)
	// Built with cgo it needs a dynamic loader, which its own chroot lacks.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOBIN="+dir, "GOOS=", "GOARCH=")
	cmd.Dir = os.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building runsc: %v\n%s", err, out[max(0, len(out)-4000):])
	}
	return path
}

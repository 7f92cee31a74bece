package testruntime

import (
	"os"
	"os/exec"
	"testing"
)

// RunscVersion is the version of gVisor that is tested. It is a tool of the
// tests, built from the module proxy; no package of ours imports it.
const RunscVersion = "v0.0.0-20260701204157-69c2d17aea96"

// Runsc returns the path of gVisor's runsc, which is built once and kept by
// version. It takes a minute or two.
func Runsc(t testing.TB) string {
	t.Helper()
	return built(t, "runsc-"+RunscVersion, "runsc", func(string) *exec.Cmd {
		cmd := exec.Command("go", "install", "-trimpath", "-ldflags=-s -w", "gvisor.dev/gvisor/runsc@"+RunscVersion)
		cmd.Dir = os.TempDir()
		return cmd
	})
}

package testruntime

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// ComposeVersion is the version of docker compose that is tested.
const ComposeVersion = "v2.40.3"

// Compose returns the path of Docker's own compose as a program, which is built
// once and kept by version. It takes two or three minutes.
func Compose(t testing.TB) string {
	t.Helper()
	return built(t, "docker-compose-"+ComposeVersion, "docker-compose", func(dir string) *exec.Cmd {
		// Its go.mod excludes versions, so it is no argument of `go install`: a
		// module that requires it, and nothing else, gives the same versions.
		mod := t.TempDir()
		text := "module scratch\n\ngo 1.24.3\n\nrequire github.com/docker/compose/v2 " + ComposeVersion + "\n"
		if err := os.WriteFile(filepath.Join(mod, "go.mod"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "docker-compose"),
			"-ldflags=-s -w -X github.com/docker/compose/v2/internal.Version="+ComposeVersion, "github.com/docker/compose/v2/cmd")
		cmd.Dir = mod
		return cmd
	})
}

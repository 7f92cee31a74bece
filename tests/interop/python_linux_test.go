package interop

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// Docker's Python library, Debian's and any other that is installed, at the
// version that it chooses and at the oldest that we serve.
func TestPythonLibrary(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	reg := testimage.StartRegistry(t)
	e := busybox(t)
	seen := map[string]bool{}
	for _, python := range []string{"/usr/bin/python3", "python3"} {
		out, err := exec.Command(python, "-c", "import docker; print(docker.__version__)").Output()
		if version := strings.TrimSpace(string(out)); err == nil && !seen[version] {
			seen[version] = true
			for _, api := range []string{"auto", "1.40"} {
				harness.Run(t, version+" API "+api, func(t *testing.T) { pythonChecks(t, e, reg.Addr, python, api) })
			}
		}
	}
	if len(seen) == 0 {
		t.Skip("needs Docker's Python library (python3-docker, make deps installs it)")
	}
}

// pythonChecks makes a subtest of every check that the script reports.
func pythonChecks(t *testing.T, e *harness.Engine, registry, python, api string) {
	cmd := exec.Command(python, "-W", "ignore", "testdata/sdk.py")
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+e.Host, "REGISTRY="+registry, "API_VERSION="+api, "HOME="+t.TempDir())
	r := harness.DoWithin(t, cmd, slow)
	reports, failures := 0, 0
	var name, output string
	report := func(ok bool) {
		if name == "" {
			return
		}
		reports++
		if !ok {
			failures++
		}
		harness.Run(t, name, func(t *testing.T) {
			if !ok {
				t.Error(output)
			}
		})
	}
	ok := true
	for line := range strings.Lines(r.Stdout) {
		var word, check string
		if n, _ := fmt.Sscanf(line, "%s %s", &word, &check); n == 2 && (word == "ok" || word == "FAIL") {
			report(ok)
			name, output, ok = check, "", word == "ok"
			continue
		}
		output += line
	}
	report(ok)
	if reports == 0 || r.Code != 0 && failures == 0 {
		t.Error(r)
	}
}

// Package tests holds what crosses packages and processes.
package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/caisson-engine/caisson"

// layers is the import rule: a package below from may import, of this module,
// only packages below may. The first row that fits counts; a package that fits
// none fails the test.
var layers = []struct {
	from string
	may  []string
}{
	{"images", []string{"images"}},
	{"engine/backend/backendpb", nil},
	{"engine/backend/backendrpc", []string{"engine/backend"}},
	{"engine/backend/plugin", []string{"engine/backend"}},
	{"engine/backend/fake", []string{"engine/backend", "engine/logs"}},
	{"engine/backend/backendtest", []string{"engine/backend"}},
	{"engine/backend", []string{"engine/backend/backendpb"}},
	{"engine", []string{"engine", "images"}},
	{"platform_linux/hostnet", []string{"platform_linux", "engine/network"}},
	{"platform_linux", []string{"platform_linux"}},
	{"backends/kit", []string{"engine/backend", "engine/logs", "backends/kit"}},
	{"backends/linux", []string{"engine/backend", "engine/logs", "backends/kit", "backends/linux", "platform_linux"}},
	{"backends/vm", []string{"engine/backend", "engine/logs", "backends/kit", "backends/vm", "platform_linux", "vmshim"}},
	{"vmshim/guestpb", nil},
	// The guest's agent is the Linux backend as PID 1, and the shim speaks its contract.
	{"vmshim/guest", []string{"vmshim", "platform_linux", "backends/linux", "engine/backend"}},
	{"vmshim/host", []string{"vmshim", "engine/backend"}},
	{"vmshim", []string{"vmshim"}},
	// As a stranger would write it: the contract and the kit. The two libraries
	// are of kernel mechanics and know nothing of the engine; what it does
	// without them (limits, files) it could not offer on hosts of any kind.
	{"backends/oci/monitor", nil},
	{"backends/oci", []string{"engine/backend", "engine/logs", "backends/kit", "backends/oci",
		"platform_linux/cgroup", "platform_linux/mount", "platform_linux/rootfs"}},
	{"cmd", []string{""}},
	{"tests", []string{""}},
}

// soleImporters names third-party modules that one package alone may import.
var soleImporters = map[string]string{
	"github.com/hashicorp/go-plugin": "engine/backend/plugin",
}

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func TestLayers(t *testing.T) {
	for _, goos := range []string{"linux", "windows", "darwin"} {
		t.Run(goos, func(t *testing.T) {
			for _, p := range list(t, goos) {
				name := local(p.ImportPath)
				may, ok := allowed(name)
				if !ok {
					t.Errorf("%s fits no row of the table", name)
					continue
				}
				for _, imp := range p.Imports {
					checkThirdParty(t, name, imp)
					if to := local(imp); to != "" && !slices.ContainsFunc(may, func(root string) bool { return below(to, root) }) {
						t.Errorf("%s imports %s; it may import only %v", name, to, may)
					}
				}
			}
		})
	}
}

// Nothing imports what wires.
func TestNothingImportsCmd(t *testing.T) {
	for _, p := range list(t, "linux") {
		from := local(p.ImportPath)
		for _, imp := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if to := local(imp); below(to, "cmd") && commandOf(to) != commandOf(from) && !below(from, "tests") {
				t.Errorf("%s imports %s", from, to)
			}
		}
	}
}

// ARCHITECTURE.md names files; they must exist.
func TestArchitectureNamesRealFiles(t *testing.T) {
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for i, quoted := range strings.Split(string(text), "`") {
		if i%2 == 0 || !strings.Contains(quoted, "/") || strings.ContainsAny(quoted, " <*{\n") || strings.HasPrefix(quoted, "/") {
			continue
		}
		found++
		if _, err := os.Stat(path.Join("..", quoted)); err != nil {
			t.Errorf("ARCHITECTURE.md names %s: %v", quoted, err)
		}
	}
	if found < 10 {
		t.Errorf("only %d paths found; is the test still reading the page?", found)
	}
}

func checkThirdParty(t *testing.T, name, imp string) {
	for mod, sole := range soleImporters {
		if below(imp, mod) && name != sole {
			t.Errorf("%s imports %s, which only %s may", name, imp, sole)
		}
	}
}

func allowed(name string) ([]string, bool) {
	for _, l := range layers {
		if below(name, l.from) {
			return l.may, true
		}
	}
	return nil, false
}

// local is the import path inside the module, "" for another's.
func local(importPath string) string {
	rest, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return rest
}

func below(p, root string) bool {
	return root == "" || p == root || strings.HasPrefix(p, root+"/")
}

// commandOf is the command that a package under cmd belongs to.
func commandOf(p string) string {
	parts := strings.SplitN(p, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func list(t *testing.T, goos string) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	return all
}

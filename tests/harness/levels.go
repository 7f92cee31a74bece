//go:build linux

package harness

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
)

// Level is the isolation level that every container of the suites runs at:
// CAISSON_TEST_LEVEL, or "" for the engine's default. Nothing in a test asks for
// it; the host owner's policy does, as in production.
func Level() string { return os.Getenv("CAISSON_TEST_LEVEL") }

// difference is a test that does not hold at a level, and why: the one table of
// what users must expect to be different there.
type difference struct {
	level string
	test  string // pattern of path.Match for the test's name
	why   string
}

var differences = []difference{
	{"vm", "TestNoMountLeavesTheRootOfABusyMachine", "a virtual machine sees no directory of the host, and gets copies of single files, read-only"},
	{"vm", "TestSameProbeInDocker", "a machine's kernel is not the one that Docker's containers see"},
}

// SameAtLevel skips a test that the table says is different at this level.
func SameAtLevel(t testing.TB) {
	t.Helper()
	for _, d := range differences {
		if ok, err := path.Match(d.test, t.Name()); err != nil {
			t.Fatalf("%s: %v", d.test, err)
		} else if ok && d.level == Level() {
			t.Skipf("different at level %s: %s", d.level, d.why)
		}
	}
}

// levelArgs make an engine give no container less than the level, and let it
// emulate machines where there is no hardware for them. A test with a policy of
// its own, in args, says these things itself.
func levelArgs(t testing.TB, dir string, args []string) []string {
	t.Helper()
	if slices.Contains(args, "--policy") {
		return nil
	}
	policy := "allow_emulation: true\n"
	if Level() != "" {
		policy += "minimum_level: " + Level() + "\n"
	}
	file := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(file, []byte(policy), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"--policy", file}
}

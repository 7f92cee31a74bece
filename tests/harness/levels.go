//go:build linux

package harness

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
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
	{"vm", "TestScenarios/*/devices_of_the_host", "a virtual machine has devices of its own; the host's are not given to it"},
	{"vm", "TestScenarios/*/user_namespace", "the machine's users are none of the host's, so there is nobody to map them to"},
	{"vm", "TestScenarios/*/network_none,_host_and_container", "a container in another machine cannot share a network stack"},
	{"vm", "TestScenarios/*/volumes_that_are_mounts", "a directory of the host shows in a machine as one that is shared, whatever it is on the host"},
	{"vm", "TestNetworks/*/name_server_at_127.0.0.11", "a machine asks the name server at its network's gateway"},
	{"vm", "TestNetworks/*/connect_and_disconnect_while_it_runs", "a machine keeps the network cards that it was started with"},
	{"vm", "TestNetworks/*/published_ports_move_with_the_networks", "a machine keeps the network cards that it was started with"},
	{"vm", "TestPythonLibrary/*/own_networks", "a machine keeps the network cards that it was started with"},
	{"vm", "TestNoMountLeavesTheRootOfABusyMachine", "what lies beneath a container's root there is its own machine's, not the host"},
	{"vm", "TestSameProbeInDocker", "a machine's kernel is not the one that Docker's containers see"},
}

// SameAtLevel skips a test that the table says is different at this level. Start
// and Run call it.
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

// Run is t.Run of a subtest that the table may name.
func Run(t *testing.T, name string, test func(t *testing.T)) bool {
	t.Helper()
	return t.Run(name, func(t *testing.T) {
		SameAtLevel(t)
		test(t)
	})
}

// emulated is what a client is told at each create where a level is emulated. It
// is not the container's output, nor the client's that a test is about.
var emulated = regexp.MustCompile(`(?m)^WARNING: level \S+ is emulated on this host: .*\n`)

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

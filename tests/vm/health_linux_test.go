package vm

import (
	"strings"
	"testing"
)

// A health check runs in the machine, and goes on when the engine was killed.
func TestHealthInTheMachine(t *testing.T) {
	e := start(t)
	e.Must("run", "-d", "--isolation", "vm", "--name", "hc", "--health-cmd", "! grep -q '"+strings.Fields(ours(t))[2]+"' /proc/version && echo well",
		"--health-interval", "200ms", "busybox", "sleep", "1000")
	health := func() string { return e.Must("inspect", "-f", "{{.State.Health.Status}}", "hc") }
	e.Until("it is healthy", func() bool { return health() == "healthy" })
	e.Kill("caissond")
	e.WaitReady()
	last := func() string {
		return e.Must("inspect", "-f", "{{range .State.Health.Log}}{{.End}} {{.Output}}{{end}}", "hc")
	}
	before := last()
	if !strings.Contains(before, "well") {
		t.Errorf("after a kill: %q", before)
	}
	e.Until("it goes on", func() bool { return last() != before })
	if got := health(); got != "healthy" {
		t.Error(got)
	}
}

// A machine's disk counts in full, and its size is the host owner's.
func TestDiskOfAMachine(t *testing.T) {
	e := start(t, "--backend-opt", "vm.disk=1g")
	r := e.Caisson("run", "--rm", "--isolation", "vm", "--storage-opt", "size=2g", "busybox", "true")
	if r.Code != 125 || !strings.Contains(r.Stderr, "every container there has a disk of 1GiB") {
		t.Errorf("%s", r)
	}
}

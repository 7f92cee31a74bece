package vm

import (
	"strings"
	"testing"
)

// Machines and processes on one network find and reach each other by name, also
// after the server of names was killed; a machine is on several networks.
func TestUserNetworks(t *testing.T) {
	e := start(t)
	e.Must("network", "create", "front")
	e.Must("network", "create", "--internal", "back")
	e.Must("run", "-d", "--name", "process", "--network", "front", "busybox", "sleep", "1000")
	e.Must("run", "-d", "--name", "inside", "--network", "back", "busybox", "sleep", "1000")
	e.Must("run", "-d", "--name", "machine", "--isolation", "vm", "--network", "name=front,alias=mach", "--network", "back", "busybox", "sleep", "1000")
	reaches := func(when string) {
		t.Helper()
		for _, x := range [][2]string{{"process", "mach"}, {"machine", "process"}, {"machine", "inside"}, {"inside", "machine"}, {"machine", "machine"}} {
			if r := e.Caisson("exec", x[0], "ping", "-c", "1", "-W", "5", x[1]); r.Code != 0 {
				t.Errorf("%s: %s does not reach %s: %s", when, x[0], x[1], r)
			}
		}
	}
	reaches("at first")
	if r := e.Caisson("exec", "machine", "nslookup", "-type=aaaa", "process"); r.Code != 0 || strings.Contains(r.Stdout, "NXDOMAIN") {
		t.Errorf("a name without such an address: %s", r)
	}
	e.Must("network", "create", "third")
	for _, verb := range []string{"connect", "disconnect"} {
		network := map[string]string{"connect": "third", "disconnect": "back"}[verb]
		if r := e.Caisson("network", verb, network, "machine"); r.Code == 0 || !strings.Contains(r.Stderr, "while it runs at its isolation level") {
			t.Errorf("%s while it runs: %s", verb, r)
		}
	}
	e.Kill("caisson-dns")
	e.Until("the server of names is back", func() bool {
		return e.Caisson("exec", "machine", "nslookup", "-type=a", "process").Code == 0 && e.Caisson("exec", "process", "nslookup", "-type=a", "mach").Code == 0
	})
	reaches("after the server of names was killed")
	e.Kill("caissond")
	e.WaitReady()
	reaches("after the engine was killed")
	e.Must("stop", "-t", "1", "machine")
	e.Must("network", "disconnect", "back", "machine")
	e.Must("network", "connect", "third", "machine")
	e.Must("start", "machine")
	if got := e.Must("exec", "machine", "ls", "/sys/class/net"); got != "eth0\neth1\nlo" {
		t.Errorf("its interfaces: %q", got)
	}
	if r := e.Caisson("exec", "machine", "ping", "-c", "1", "-W", "2", "inside"); r.Code == 0 {
		t.Error("it reaches a network that it left")
	}
}

package network

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

func start(t *testing.T, args ...string) *harness.Engine {
	t.Helper()
	e := harness.Start(t, args...)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	return e
}

// reaches says whether one container gets an answer to a ping from an address or
// name.
func reaches(e *harness.Engine, from, to string) bool {
	return e.Caisson("exec", from, "ping", "-c", "1", "-W", "1", to).Code == 0
}

func field(e *harness.Engine, name, network, what string) string {
	return e.Must("inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).%s}}", network, what), name)
}

// Two internal networks and a gateway between: what must not reach what, by
// whichever way.
func TestWhatReachesWhat(t *testing.T) {
	e := start(t)
	e.Must("network", "create", "--internal", "--ipv6", "back")
	e.Must("network", "create", "--internal", "back2")
	e.Must("network", "create", "--ipv6", "front")
	e.Must("network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "apart")
	e.Must("run", "-d", "--name", "db", "--network", "back", "busybox", "httpd", "-f", "-h", "/etc")
	e.Must("run", "-d", "--name", "db2", "--network", "back2", "busybox", "sleep", "1000")
	e.Must("run", "-d", "--name", "web", "--network", "front", "-p", "80", "busybox", "httpd", "-f", "-h", "/etc")
	e.Must("run", "-d", "--name", "plain", "busybox", "sleep", "1000")
	e.Must("run", "-d", "--name", "a1", "--network", "apart", "busybox", "sleep", "1000")
	e.Must("run", "-d", "--name", "a2", "--network", "apart", "busybox", "sleep", "1000")
	e.Must("run", "-d", "--name", "gate", "--network", "front", "busybox", "sleep", "1000")
	e.Must("network", "connect", "back", "gate")
	addr := map[string]string{}
	for name, network := range map[string]string{"db": "back", "db2": "back2", "web": "front", "plain": "bridge", "a1": "apart", "a2": "apart"} {
		addr[name] = field(e, name, network, "IPAddress")
	}
	six := field(e, "db", "back", "GlobalIPv6Address")
	for _, tt := range []struct {
		from, to string
		want     bool
	}{
		{"gate", "db", true}, {"gate", "web", true}, {"gate", addr["db"], true}, {"gate", six, true},
		{"web", "db", false}, {"web", addr["db"], false}, {"web", six, false}, {"db", addr["web"], false},
		{"db", addr["db2"], false}, {"gate", addr["db2"], false}, {"plain", addr["db"], false}, {"plain", addr["web"], false},
		{"web", addr["plain"], false}, {"a1", addr["a2"], false}, {"a1", "host.docker.internal", true},
	} {
		if got := reaches(e, tt.from, tt.to); got != tt.want {
			t.Errorf("%s reaches %s: %v", tt.from, tt.to, got)
		}
	}
	// Names are not told across, either; and nothing is asked outside.
	if r := e.Caisson("exec", "db", "nslookup", "-type=a", "web"); !strings.Contains(r.Stdout+r.Stderr, "SERVFAIL") {
		t.Errorf("a name of another network: %s", r)
	}
	// What is published is for those who can leave.
	port := strings.TrimSpace(regexp.MustCompile(`:(\d+)\n?`).FindStringSubmatch(e.Must("port", "web", "80/tcp"))[1])
	host := e.Must("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "front")
	if r := e.Caisson("exec", "plain", "wget", "-qO-", "http://"+host+":"+port+"/hostname"); r.Code != 0 {
		t.Errorf("a published port from another bridge: %s", r)
	}
	e.Must("exec", "--privileged", "db", "ip", "route", "add", "default", "via", e.Must("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "back"))
	if r := e.Caisson("exec", "db", "nc", "-w", "1", host, port); r.Code == 0 {
		t.Errorf("a published port from an internal network: %s", r)
	}
}

// Somebody flushes the ruleset: the next container finds all of it again.
func TestRulesComeBack(t *testing.T) {
	harness.Need(t, "nft", "unshare", "ip")
	e := start(t)
	e.Must("network", "create", "front")
	e.Must("run", "-d", "--name", "web", "--network", "front", "-p", "127.0.0.1::80", "busybox", "httpd", "-f", "-h", "/etc")
	table := "caisson_" + e.HostID
	if out, err := exec.Command("nft", "delete", "table", "inet", table).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	e.Must("run", "--rm", "--network", "front", "busybox", "true")
	out, err := exec.Command("nft", "list", "table", "inet", table).CombinedOutput()
	if err != nil || !strings.Contains(string(out), field(e, "web", "front", "IPAddress")) {
		t.Errorf("%v: %s", err, out)
	}
}

// Names are answered while the engine is killed, and soon again after the server
// of names was; containers come and go meanwhile.
func TestNamesWhileProcessesAreKilled(t *testing.T) {
	e := start(t)
	e.Must("network", "create", "front")
	e.Must("run", "-d", "--name", "web", "--network", "front", "busybox", "sleep", "1000")
	// It asks without end and says when it is not answered.
	e.Must("run", "-d", "--name", "asker", "--network", "front", "busybox", "sh", "-c",
		"while :; do if nslookup -type=a web >/dev/null 2>&1; then echo yes; else echo no; fi; done")
	answers := func() (yes, no int) {
		log := e.Must("logs", "asker")
		return strings.Count(log, "yes"), strings.Count(log, "no")
	}
	more := func(what string) {
		t.Helper()
		was, _ := answers()
		e.Until("names are answered "+what, func() bool { yes, _ := answers(); return yes > was+5 })
	}
	more("at first")
	for range 3 {
		e.Kill("caissond")
		e.WaitReady()
		more("after the engine was killed")
	}
	if _, no := answers(); no != 0 {
		t.Errorf("%d queries were not answered while the engine was away", no)
	}
	e.Kill("caisson-dns")
	more("after the server of names was killed")
	e.Must("run", "-d", "--name", "late", "--network", "front", "busybox", "sleep", "1000")
	if !reaches(e, "late", "web") || !reaches(e, "web", "late") {
		t.Error("a container that came later is not found")
	}
	e.Must("rm", "-f", "web", "late", "asker")
	e.Must("network", "rm", "front")
}

// Many networks with containers: nothing is left of them, and the last ones take
// no longer than the first.
func TestManyNetworks(t *testing.T) {
	e := start(t)
	const networks, each = 8, 3
	for i := range networks {
		e.Must("network", "create", fmt.Sprint("n", i))
	}
	for i := range networks {
		for j := range each {
			e.Must("run", "-d", "--network", fmt.Sprint("n", i), "--network-alias", "all", "--name", fmt.Sprintf("c%d-%d", i, j), "busybox", "sleep", "1000")
		}
	}
	for i := range networks {
		r := e.Must("exec", fmt.Sprintf("c%d-0", i), "nslookup", "-type=a", "all")
		if n := strings.Count(r, "Name:"); n != each {
			t.Errorf("network %d: %d containers share the name\n%s", i, n, r)
		}
	}
	ids := strings.Fields(e.Must("ps", "-q"))
	e.Must(append([]string{"rm", "-f"}, ids...)...)
	e.Must("network", "prune", "-f")
	left, _ := filepath.Glob("/sys/class/net/cs" + e.HostID + "n*")
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	out, _ := exec.Command("nft", "list", "table", "inet", "caisson_"+e.HostID).CombinedOutput()
	if strings.Contains(string(out), "cs"+e.HostID+"n") {
		t.Errorf("rules are left:\n%s", out)
	}
}

// Shares of an interface of the host: macvlan and ipvlan.
func TestShares(t *testing.T) {
	e := start(t)
	for _, driver := range []string{"macvlan", "ipvlan"} {
		t.Run(driver, func(t *testing.T) {
			e.Must("network", "create", "-d", driver, "--subnet", "10.219.0.0/24", driver) // of an interface that leads nowhere
			if r := e.Caisson("run", "-d", "--name", "one", "--network", driver, "--ip", "10.219.0.5", "busybox", "sleep", "1000"); strings.Contains(r.Stderr, "kernel has no") {
				e.Must("rm", "one")
				e.Must("network", "rm", driver)
				t.Skip(r.Stderr)
			} else if r.Code != 0 {
				t.Fatal(r)
			}
			e.Must("run", "-d", "--name", "two", "--network", driver, "busybox", "sleep", "1000")
			if !reaches(e, "two", "one") || !reaches(e, "one", "two") {
				t.Error("its containers do not reach each other by name")
			}
			e.Must("run", "-d", "--name", "three", "busybox", "sleep", "1000")
			e.Must("network", "connect", driver, "three")
			if !reaches(e, "one", "three") {
				t.Error("one that was connected while it ran is not reached")
			}
			e.Must("network", "disconnect", driver, "three")
			if reaches(e, "one", "three") {
				t.Error("one that was disconnected is reached")
			}
			e.Must("rm", "-f", "one", "two", "three")
			e.Must("network", "rm", driver)
			if left, _ := filepath.Glob("/sys/class/net/cs" + e.HostID + "n*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	if r := e.Caisson("network", "create", "-d", "macvlan", "-o", "parent=nosuch0", "lan"); r.Code == 0 || !strings.Contains(r.Stderr, "no interface nosuch0") {
		t.Errorf("a parent that is not there: %s", r)
	}
}

// A container may be a name server itself, on every address; and port 53 of
// another address is not taken from it.
func TestContainerIsNameServer(t *testing.T) {
	e := start(t)
	e.Must("network", "create", "front")
	harness.Need(t, "nsenter")
	e.Must("run", "-d", "--name", "ns", "--network", "front", "busybox", "sleep", "1000")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nsenter", "-t", e.Must("inspect", "-f", "{{.State.Pid}}", "ns"), "-n", self, "-test.run", "^TestBeNameServer$")
	cmd.Env = append(os.Environ(), serveNames+"=1")
	ready, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if line, err := bufio.NewReader(ready).ReadString('\n'); line != "ready\n" {
		t.Fatalf("a server of names on port 53 of every address: %q %v", line, err)
	}
	ip := field(e, "ns", "front", "IPAddress")
	r := e.Must("run", "--rm", "--network", "front", "--dns", ip, "busybox", "nslookup", "-type=a", "known.example")
	if !strings.Contains(r, "192.0.2.9") {
		t.Errorf("%s", r)
	}
	if !reaches(e, "ns", "ns") {
		t.Error("it does not find itself")
	}
	// From another network it is not asked in a container's place.
	e.Must("network", "create", "other")
	if r := e.Caisson("run", "--rm", "--network", "other", "--dns", ip, "busybox", "nslookup", "-type=a", "known.example"); strings.Contains(r.Stdout, "192.0.2.9") {
		t.Errorf("asked across networks: %s", r)
	}
}

const serveNames = "CAISSON_TEST_SERVE_NAMES"

// TestBeNameServer runs in a container's namespace: whatever is asked, it is
// 192.0.2.9.
func TestBeNameServer(t *testing.T) {
	if os.Getenv(serveNames) == "" {
		t.Skip("runs inside another test")
	}
	l, err := net.Listen("tcp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.ListenPacket("udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Println("ready")
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		answer := append([]byte{}, buf[:n]...)
		answer[2], answer[3], answer[7] = 0x81, 0x80, 1
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 9)
		if _, err := c.WriteTo(answer, from); err != nil {
			t.Fatal(err)
		}
	}
}

// A container asks as fast as it can: how many queries a second are answered. It
// must be far beyond what programs need, and others must be answered meanwhile.
func TestQueriesPerSecond(t *testing.T) {
	e := start(t)
	e.Must("network", "create", "front")
	e.Must("run", "-d", "--name", "web", "--network", "front", "busybox", "sleep", "1000")
	e.Must("run", "-d", "--name", "other", "--network", "front", "busybox", "sleep", "1000")
	pid := e.Must("inspect", "-f", "{{.State.Pid}}", "web")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nsenter", "-t", pid, "-n", self, "-test.run", "^TestAsk$", "-test.v")
	cmd.Env = append(os.Environ(), askFor+"=web")
	done := make(chan harness.Result, 1)
	harness.Need(t, "nsenter")
	go func() { done <- harness.Do(t, cmd) }()
	slowest := time.Duration(0)
	for {
		select {
		case r := <-done:
			m := regexp.MustCompile(`(\d+) queries a second`).FindStringSubmatch(r.Stdout)
			if r.Code != 0 || m == nil {
				t.Fatalf("%s", r)
			}
			t.Logf("%s queries a second, the other container waited %s at most (its exec included)", m[1], slowest)
			return
		default:
			began := time.Now()
			if !reaches(e, "other", "web") {
				t.Error("another container was not answered")
			}
			slowest = max(slowest, time.Since(began))
		}
	}
}

const askFor = "CAISSON_TEST_ASK"

// TestAsk runs in a container's namespace and asks for a name for a second, with
// several queries under way.
func TestAsk(t *testing.T) {
	name := os.Getenv(askFor)
	if name == "" {
		t.Skip("runs inside another test")
	}
	query := append([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, byte(len(name))}, name...)
	query = append(query, 0, 0, 1, 0, 1)
	var answered atomic.Int64
	const seconds = 2
	stop := time.Now().Add(seconds * time.Second)
	done := make(chan error, 4)
	for range cap(done) {
		go func() {
			c, err := net.Dial("udp", "127.0.0.11:53")
			if err != nil {
				done <- err
				return
			}
			defer c.Close()
			buf := make([]byte, 512)
			for time.Now().Before(stop) {
				if _, err := c.Write(query); err != nil {
					done <- err
					return
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				if n, err := c.Read(buf); err == nil && n > 12 && buf[7] > 0 {
					answered.Add(1)
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	fmt.Printf("%d queries a second\n", answered.Load()/seconds)
}

package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/vmshim/guestos"
)

// hostileUIDs counts this file's engines: each has a thousand user ids for its
// machines that nothing else uses.
var hostileUIDs atomic.Int64

// startHostile is an engine that must leave no process, and no trace of a machine.
func startHostile(t *testing.T, args ...string) *harness.Engine {
	t.Helper()
	first := 1_950_000_000 + 1000*int(hostileUIDs.Add(1))
	e := start(t, append([]string{"--backend-opt", fmt.Sprint("vm.first-uid=", first), "--backend-opt", "vm.disk=128m"}, args...)...)
	t.Cleanup(func() { // before the engine's own
		for _, id := range strings.Fields(e.Caisson("ps", "-aq").Stdout) {
			if r := e.Caisson("rm", "-f", "-v", id); r.Code != 0 {
				t.Errorf("rm -f: %v", r)
			}
		}
		vms := filepath.Join(e.ExecRoot, "backends/vm/vms")
		if _, err := os.Stat(vms); err != nil {
			t.Errorf("where the machines are: %v", err)
		}
		e.Until("no machine is left", func() bool {
			left, _ := os.ReadDir(vms)
			return len(left) == 0 && len(processesOf(first, first+1000)) == 0
		})
	})
	return e
}

// processesOf are those with a user id in a range.
func processesOf(low, high int) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		st, err := os.Stat(dir)
		if err != nil {
			continue
		}
		if uid := int(st.Sys().(*syscall.Stat_t).Uid); uid >= low && uid < high {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

// beside is a container that must notice nothing.
type beside struct {
	e    *harness.Engine
	name string
}

func runBeside(e *harness.Engine, level string) beside {
	b := beside{e, "beside-" + level}
	e.Must("run", "-d", "--name", b.name, "--isolation", level, "busybox", "sh", "-c",
		`trap 'echo end; exit 17' TERM; i=0; while :; do echo $i; i=$((i+1)); usleep 50000; done`)
	return b
}

// check looks at it while it runs.
func (b beside) check(t *testing.T, when string) {
	t.Helper()
	if r := b.e.Caisson("exec", b.name, "echo", "alive"); r.Stdout != "alive\n" {
		t.Errorf("%s, %s: exec: %v", b.name, when, r)
	}
}

// end wants its whole life to have been an undisturbed one.
func (b beside) end(t *testing.T) {
	t.Helper()
	b.e.Must("kill", "-s", "TERM", b.name)
	if code := b.e.Must("wait", b.name); code != "17" {
		t.Errorf("%s: exit code %s", b.name, code)
	}
	lines := strings.Split(b.e.Must("logs", b.name), "\n")
	for i, line := range lines[:len(lines)-1] {
		if line != fmt.Sprint(i) {
			t.Fatalf("%s: line %d of %d is %q", b.name, i, len(lines), line)
		}
	}
	if len(lines) < 20 || lines[len(lines)-1] != "end" {
		t.Errorf("%s: %d lines, the last is %q", b.name, len(lines), lines[len(lines)-1])
	}
}

// liarGuest is a guest whose agent was replaced by the liar; bin are empty files
// that it finds.
func liarGuest(t *testing.T, bin ...string) string {
	t.Helper()
	harness.Need(t, "go")
	dir, err := os.MkdirTemp("/var/tmp", "caisson-liar") // machines read it under users of their own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	init := filepath.Join(t.TempDir(), "liar")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", init, "./liar")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the liar: %v\n%s", err, out)
	}
	p := guestos.Programs{Init: init}
	for _, name := range bin {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		p.Bin = append(p.Bin, path)
	}
	if err := guestos.Initramfs(filepath.Join(dir, "initrd"), p); err != nil {
		t.Fatal(err)
	}
	kernel, err := os.ReadFile(filepath.Join(harness.Bin(t), "guest/vmlinux"))
	if err != nil {
		t.Skip("needs our guest kernel (make guest builds it)")
	}
	if err := os.WriteFile(filepath.Join(dir, "vmlinux"), kernel, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// hostileAgents is what the liar does, and what comes of it.
var hostileAgents = []struct {
	mode string
	do   string // what the user does; "" waits for the end
	code string
	want string // of inspect's error
}{
	{"garbage", "", "137", "broke the connection"},
	{"huge", "", "137", "broke the connection"},
	{"lies", "", "255", "because!"},
	{"panic", "", "255", "the guest's kernel panicked: Attempted to kill init! exitcode=0x00000300"},
	{"shutdown", "", "255", "the guest shut down"},
	{"deaf", "kill", "137", "did not answer"},
	{"deaf", "stop -t 1", "137", "did not answer"},
	{"immortal", "kill", "137", "did not tell of the end"},
	{"events", "kill", "137", "did not tell of the end"},
	{"output", "kill", "137", "did not tell of the end"},
}

// A guest whose agent was taken over costs its own container, and tells why.
func TestHostileAgent(t *testing.T) {
	t.Parallel() // with the next: both wait for a minute
	e := startHostile(t, "--backend-opt", "vm.guest-dir="+liarGuest(t))
	near := runBeside(e, "process")
	do := func(args ...string) harness.Result {
		return harness.DoWithin(t, e.Command("caisson", args...), 2*time.Minute)
	}
	flags := []string{"--isolation", "vm", "-m", "64m", "--log-opt", "max-size=1m", "--log-opt", "max-file=2"}
	name := func(i int) string { return fmt.Sprint(hostileAgents[i].mode, i) }

	// They do little but wait, so their ends are waited for together.
	var wg sync.WaitGroup
	var mute harness.Result
	wg.Go(func() {
		mute = do(append(append([]string{"run", "--name", "mute", "--hostname", "mute"}, flags...), "busybox", "true")...)
	})
	results := make([]struct{ ran, did, waited harness.Result }, len(hostileAgents))
	for i, c := range hostileAgents {
		r := &results[i]
		r.ran = do(append(append([]string{"run", "-d", "--name", name(i), "--hostname", c.mode}, flags...), "busybox", "true")...)
		wg.Go(func() {
			if c.do != "" {
				r.did = do(append(strings.Fields(c.do), name(i))...)
			}
			r.waited = do("wait", name(i))
		})
		near.check(t, c.mode)
	}
	wg.Wait()

	for i, c := range hostileAgents {
		t.Run(name(i), func(t *testing.T) {
			r := results[i]
			if r.ran.Code != 0 || r.did.Code != 0 || strings.TrimSpace(r.waited.Stdout) != c.code {
				t.Fatalf("run: %v\n%s: %v\nwait: %v; want %s", r.ran, c.do, r.did, r.waited, c.code)
			}
			got := e.Must("inspect", "-f", "{{.State.Status}} {{.State.Error}}", name(i))
			if !strings.HasPrefix(got, "exited ") || !strings.Contains(got, c.want) || strings.ContainsRune(got, '\x1b') || len(got) > 2000 {
				t.Errorf("inspect says %.2000q, want %q", got, c.want)
			}
			t.Logf("%.200s", got)
			if n := size(e.Must("inspect", "-f", "{{.LogPath}}", name(i)) + "*"); n > 3<<20 {
				t.Errorf("its log takes %d bytes", n)
			}
			e.Must("rm", name(i))
		})
	}
	// One that never answers is not waited for without end.
	if mute.Code != 125 || !strings.Contains(mute.Stderr, "the guest does not answer") {
		t.Errorf("mute: %v", mute)
	}
	near.end(t)
}

// A guest that does not come up costs a minute, and tells so.
func TestSilentGuest(t *testing.T) {
	t.Parallel()
	e := startHostile(t, "--backend-opt", "vm.templates=false", "--backend-opt", "vm.guest-dir="+liarGuest(t, "silent"))
	near := runBeside(e, "process")
	run := e.Command("caisson", "run", "--rm", "--isolation", "vm", "-m", "64m", "busybox", "true")
	if r := harness.DoWithin(t, run, 2*time.Minute); r.Code != 125 || !strings.Contains(r.Stderr, "did not come up") {
		t.Errorf("run: %v", r)
	}
	near.end(t)
}

// size is of all files that match, on the disk.
func size(pattern string) (n int64) {
	files, _ := filepath.Glob(pattern)
	for _, f := range files {
		if st, err := os.Stat(f); err == nil {
			n += st.Sys().(*syscall.Stat_t).Blocks * 512
		}
	}
	return n
}

// machineRights make a container the root of its own machine, and of nothing else.
var machineRights = []string{"--privileged", "--pid", "host"}

// overwriteAgent writes over the text of the machine's agent, which begins at 4 MiB
// and 4 KiB, as any Go program's does, and has the agent run it.
const overwriteAgent = " | dd of=/proc/1/mem bs=4096 seek=1025 conv=notrunc 2>/dev/null; kill -HUP 1; sleep 1000"

// A container that does what it can against its machine and its host costs nobody
// but itself.
func TestHostileContainer(t *testing.T) {
	e := startHostile(t)
	near := []beside{runBeside(e, "process"), runBeside(e, "vm")}
	for _, c := range []struct {
		name   string
		flags  []string
		script string
		after  string        // what its log says before it is ended, if it does
		runs   time.Duration // how long it is let do it
		end    []string      // what the user does; nil waits for the end
		codes  string
		want   string // of inspect's error
	}{
		{
			name: "log flood", script: "yes \"$(head -c 3000 /dev/zero | tr '\\0' x)\"",
			runs: 3 * time.Second, end: []string{"kill"}, codes: "137",
		},
		{
			name: "network flood", script: "echo go; gw=$(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'); " +
				"for i in 1 2 3 4; do ping -s 60000 -i 0.001 $gw >/dev/null & ping -b -i 0.001 255.255.255.255 >/dev/null & done; wait; sleep 1000",
			after: "go", runs: 3 * time.Second, end: []string{"kill"}, codes: "137",
		},
		{
			name: "full disk", script: "dd if=/dev/zero of=/fill bs=1M; echo full; sleep 1000",
			after: "full", end: []string{"kill"}, codes: "137",
		},
		{
			name: "fork bomb", script: "echo go; f() { f | f & }; f; f; sleep 1000",
			after: "go", runs: 3 * time.Second, end: []string{"rm", "-f"},
		},
		{name: "all memory of the container", flags: []string{"-m", "48m"}, script: "tail /dev/zero", codes: "137"},
		{name: "all memory of the machine", script: "tail /dev/zero", codes: "137"},
		{
			name: "kernel panic", flags: machineRights, script: "cat /dev/zero" + overwriteAgent,
			codes: "255", want: "the guest's kernel panicked: Attempted to kill init!",
		},
		{
			name: "power off", flags: machineRights, script: "reboot -f",
			codes: "255", want: "the guest shut down",
		},
		{
			// Jumps to itself, everywhere.
			name: "hung", flags: machineRights, script: "printf '\\353\\376' > x; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13; do cat x x > y; mv y x; done; " +
				"echo go; while :; do cat x; done" + overwriteAgent,
			after: "go", runs: time.Second, end: []string{"stop", "-t", "1"}, codes: "137", want: "did not answer",
		},
		{
			// Its kernel may hang in what comes of that.
			name: "its own disks", flags: machineRights, script: "echo go; cat /dev/urandom > /dev/vda; dd if=/dev/zero of=/dev/vdb bs=1M count=16; sleep 1000",
			after: "go", runs: 3 * time.Second, end: []string{"rm", "-f"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer e.Caisson("rm", "-f", "bad")
			args := append([]string{"run", "-d", "--name", "bad", "--isolation", "vm", "--log-opt", "max-size=1m", "--log-opt", "max-file=2"}, c.flags...)
			if r := harness.DoWithin(t, e.Command("caisson", append(args, "busybox", "sh", "-c", c.script)...), time.Minute); r.Code != 0 {
				t.Fatalf("run: %v", r)
			}
			if c.after != "" {
				for deadline := time.Now().Add(time.Minute); !strings.Contains(e.Caisson("logs", "bad").Stdout, c.after); {
					if time.Now().After(deadline) {
						t.Fatal("it does not come so far")
					}
					time.Sleep(50 * time.Millisecond)
				}
			}
			stop := time.After(c.runs)
			for _, b := range near {
				b.check(t, c.name)
			}
			<-stop
			if c.end != nil {
				if r := harness.DoWithin(t, e.Command("caisson", append(c.end, "bad")...), time.Minute); r.Code != 0 {
					t.Fatalf("%v: %v", c.end, r)
				}
			}
			if c.codes == "" {
				return
			}
			if r := harness.DoWithin(t, e.Command("caisson", "wait", "bad"), time.Minute); strings.TrimSpace(r.Stdout) != c.codes {
				t.Errorf("wait: %v; want %s", r, c.codes)
			}
			got := e.Must("inspect", "-f", "{{.State.Error}} {{.State.OOMKilled}}", "bad")
			if !strings.Contains(got, c.want) {
				t.Errorf("inspect says %q, want %q", got, c.want)
			}
			t.Log(got)
			if n := size(e.Must("inspect", "-f", "{{.LogPath}}", "bad") + "*"); n > 3<<20 {
				t.Errorf("its log takes %d bytes", n)
			}
			if id := e.Must("inspect", "-f", "{{.Id}}", "bad"); c.name == "full disk" {
				if n := below(filepath.Join(e.DataRoot, "containers", id)); n > 150<<20 {
					t.Errorf("its files take %d bytes", n)
				}
			}
		})
		for _, b := range near {
			b.check(t, "after "+c.name)
		}
	}
	for _, b := range near {
		b.end(t)
	}
}

// below is what a directory takes on the disk.
func below(dir string) (n int64) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "du", "-s", "--block-size=1", dir).Output()
	_, _ = fmt.Sscan(string(out), &n)
	return n
}

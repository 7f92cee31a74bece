package vm

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
	"github.com/caisson-engine/caisson/tests/testruntime"
)

// start is an engine whose host has QEMU and a guest.
func start(t *testing.T, args ...string) *harness.Engine {
	t.Helper()
	harness.NeedRoot(t)
	harness.Need(t, "qemu-system-x86_64", "mkfs.erofs", "mkfs.ext4")
	if _, err := os.Stat(filepath.Join(harness.Bin(t), "guest/initrd")); err != nil {
		t.Skip("needs a guest (make guest builds it)")
	}
	e := harness.Start(t, args...)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	return e
}

// ours is what the host's kernel calls itself.
func ours(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/version")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// The same image and command run at both levels; the client asks by either of
// Docker's flags, or the policy forces it on one that asks for nothing.
func TestLevel(t *testing.T) {
	e := start(t)
	const version = "cat /proc/version"
	if got := e.Must("run", "--rm", "busybox", "sh", "-c", version); got != ours(t) {
		t.Errorf("process level: %q", got)
	}
	for _, ask := range [][]string{{"--isolation", "vm"}, {"--runtime", "vm"}, {"--runtime", "vm/vm"}, {"--isolation", "hyperv"}} {
		args := append(append([]string{"run", "--rm"}, ask...), "busybox", "sh", "-c", version)
		r := e.Caisson(args...)
		if r.Code != 0 || !strings.HasPrefix(r.Stdout, "Linux version ") || strings.TrimSpace(r.Stdout) == ours(t) {
			t.Errorf("%v: %v", ask, r)
		}
		if !strings.Contains(r.Stderr, "emulat") && !kvm(e) {
			t.Errorf("%v: no warning that the machine is emulated: %v", ask, r)
		}
	}
	_, err := exec.LookPath("docker")
	hasDocker := err == nil
	if hasDocker {
		for _, ask := range [][]string{{"--isolation", "vm"}, {"--runtime", "vm"}} {
			r := e.Docker(append(append([]string{"run", "--rm"}, ask...), "busybox", "sh", "-c", version+"; exit 7")...)
			if r.Code != 7 || !strings.HasPrefix(r.Stdout, "Linux version ") || strings.TrimSpace(r.Stdout) == ours(t) {
				t.Errorf("docker run %v: %v", ask, r)
			}
		}
	}
	forced := start(t, "--policy", policy(t, "minimum_level: vm\nallow_emulation: true\n"))
	if got := forced.Must("run", "--rm", "busybox", "sh", "-c", version); got == ours(t) {
		t.Errorf("forced by policy: %q", got)
	}
	if hasDocker {
		if r := forced.Docker("run", "--rm", "busybox", "sh", "-c", version); r.Code != 0 || strings.TrimSpace(r.Stdout) == ours(t) {
			t.Errorf("docker run, forced by policy: %v", r)
		}
	}
}

// policy is a file with the host owner's words.
func policy(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// One image, named by its digest, runs on the host's kernel, on gVisor's, and on
// a machine's own.
func TestOneDigestAtEveryLevel(t *testing.T) {
	e := start(t, "--policy", policy(t, fmt.Sprintf(`
allow_emulation: true
runtimes:
  runsc: {path: %s, level: sandbox, strength: 200}
`, testruntime.Runsc(t))))
	digest := e.Must("image", "inspect", "-f", "{{.Id}}", "busybox")
	seen := map[string]string{}
	for _, level := range []string{"process", "sandbox", "vm"} {
		e.Must("run", "--name", level, "--isolation", level, digest, "cat", "/proc/version")
		if got := e.Must("inspect", "-f", "{{.Image}}", level); got != digest {
			t.Errorf("level %s: image %s, want %s", level, got, digest)
		}
		kernel := e.Must("logs", level)
		if other, ok := seen[kernel]; ok {
			t.Errorf("levels %s and %s have the kernel %q", level, other, kernel)
		}
		seen[kernel] = level
	}
	if seen[ours(t)] != "process" {
		t.Errorf("no process on this host's kernel: %v", seen)
	}
}

// kvm tells whether machines have hardware behind them here.
func kvm(e *harness.Engine) bool {
	return strings.Contains(e.Must("info"), "accelerator: kvm")
}

func TestExitCodes(t *testing.T) {
	e := start(t)
	for _, c := range []struct {
		code int
		args []string
	}{
		{0, []string{"true"}}, {7, []string{"sh", "-c", "exit 7"}}, {127, []string{"no-such-program"}},
		{126, []string{"/etc/passwd"}}, {143, []string{"sh", "-c", "kill -TERM $$"}},
	} {
		r := e.Caisson(append([]string{"run", "--rm", "--isolation", "vm", "busybox"}, c.args...)...)
		if c.code == 143 { // pid 1 ignores what it does not handle, in a machine too
			if r.Code != 0 && r.Code != 143 {
				t.Errorf("%v: %v", c.args, r)
			}
			continue
		}
		if r.Code != c.code {
			t.Errorf("%v: %v, want %d", c.args, r, c.code)
		}
	}
}

// One container's life: port, exec, files, stats, pause, stop, start again, commit.
func TestLife(t *testing.T) {
	e := start(t)
	e.Must("run", "-d", "--name", "web", "--isolation", "vm", "-p", "127.0.0.1::80", "-m", "128m", "busybox", "sh", "-c",
		"trap 'exit 3' TERM; echo started; echo from-vm > /tmp/index.html; httpd -p 80 -h /tmp; while :; do sleep 1; done")
	fetch := func() string {
		at := strings.Fields(e.Must("port", "web", "80"))[0]
		var body string
		e.Until("the published port answers", func() bool {
			r, err := http.Get("http://" + at + "/index.html")
			if err != nil {
				return false
			}
			defer r.Body.Close()
			b, _ := io.ReadAll(r.Body)
			body = string(b)
			return r.StatusCode == http.StatusOK
		})
		return body
	}
	if got := fetch(); got != "from-vm\n" {
		t.Errorf("published port: %q", got)
	}
	peer := e.Must("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "web")
	for _, level := range []string{"process", "vm"} {
		if got := e.Must("run", "--rm", "--isolation", level, "busybox", "wget", "-qO-", "http://"+peer+"/index.html"); got != "from-vm" {
			t.Errorf("from level %s: %q", level, got)
		}
	}
	if got := e.Must("exec", "web", "uname", "-s"); got != "Linux" {
		t.Errorf("exec: %q", got)
	}
	if r := e.Run("caisson", "typed\n", "exec", "-i", "web", "cat"); r.Stdout != "typed\n" {
		t.Errorf("exec -i: %v", r)
	}
	if r := e.Caisson("exec", "web", "sh", "-c", "exit 9"); r.Code != 9 {
		t.Errorf("exec's exit code: %v", r)
	}
	if got := e.Must("top", "web"); !strings.Contains(got, "sleep") || strings.Contains(got, "kworker") {
		t.Errorf("top: %s", got)
	}
	if got := e.Must("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "web"); !strings.Contains(got, "128MiB") {
		t.Errorf("stats: %s", got)
	}
	from := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(from, []byte("copied\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	e.Must("cp", from, "web:/root/f")
	if got := e.Must("exec", "web", "cat", "/root/f"); got != "copied" {
		t.Errorf("cp: %q", got)
	}
	if got := e.Must("diff", "web"); !strings.Contains(got, "A /root/f") {
		t.Errorf("diff: %s", got)
	}
	// The host's processors are the machine's to be kept to.
	qemu := monitor(t, shim(t, e, e.Must("inspect", "-f", "{{.Id}}", "web")))
	for _, cpus := range []string{"0", strconv.Itoa(runtime.NumCPU() - 1)} {
		e.Must("update", "--cpuset-cpus", cpus, "web")
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", qemu)); err != nil || !strings.Contains(string(b), "Cpus_allowed_list:\t"+cpus+"\n") {
			t.Errorf("update --cpuset-cpus %s: %v, %s", cpus, err, b)
		}
	}
	e.Must("pause", "web")
	if got := e.Must("inspect", "-f", "{{.State.Status}}", "web"); got != "paused" {
		t.Errorf("paused: %s", got)
	}
	if r := e.Caisson("exec", "web", "true"); r.Code == 0 {
		t.Error("exec in a paused container works")
	}
	e.Must("unpause", "web")
	e.Must("exec", "web", "true")
	e.Must("stop", "web")
	if got := e.Must("inspect", "-f", "{{.State.ExitCode}}", "web"); got != "3" {
		t.Errorf("stopped: exit code %s", got)
	}
	if got := e.Must("logs", "web"); got != "started" {
		t.Errorf("logs: %q", got)
	}
	// Its files can be reached while nothing runs, and are there at the next start.
	e.Must("cp", "web:/root/f", from+".back")
	if b, err := os.ReadFile(from + ".back"); err != nil || string(b) != "copied\n" {
		t.Errorf("cp from a stopped container: %q %v", b, err)
	}
	e.Must("start", "web")
	if got := fetch(); got != "from-vm\n" {
		t.Errorf("published port after a restart: %q", got)
	}
	if got := e.Must("exec", "web", "cat", "/root/f"); got != "copied" {
		t.Errorf("files after a restart: %q", got)
	}
	e.Must("commit", "web", "web:2")
	for _, level := range []string{"process", "vm"} {
		if got := e.Must("run", "--rm", "--isolation", level, "web:2", "cat", "/root/f"); got != "copied" {
			t.Errorf("committed image at level %s: %q", level, got)
		}
	}
}

// What cannot be is refused with a reason, and leaves nothing.
func TestRefusals(t *testing.T) {
	e := start(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-v", "/dev/null:/null"}, "works on this host alone"},
		{[]string{"-v", "/usr:/host:rslave"}, "does not spread"},
		{[]string{"--device", "/dev/null:/dev/mine"}, "devices of the host"},
		{[]string{"--network", "host"}, "host's network"},
	} {
		r := e.Caisson(append(append([]string{"run", "--rm", "--isolation", "vm"}, c.args...), "busybox", "true")...)
		if r.Code == 0 || !strings.Contains(r.Stderr, c.want) {
			t.Errorf("%v: %v, want words about %q", c.args, r, c.want)
		}
	}
	if got := e.Must("ps", "-aq"); got != "" {
		t.Errorf("left: %s", got)
	}
	if got := e.Must("run", "--rm", "--isolation", "vm", "--network", "none", "busybox", "ls", "/sys/class/net"); got != "lo" {
		t.Errorf("--network none: %q", got)
	}
	// Privileges are the machine's.
	if got := e.Must("run", "--rm", "--isolation", "vm", "--privileged", "busybox", "sh", "-c", "mount -t tmpfs x /tmp && echo privileged"); got != "privileged" {
		t.Errorf("--privileged: %q", got)
	}
}

// Clones of one template have nothing random in common.
func TestClonesDiffer(t *testing.T) {
	e := start(t)
	const n = 3
	clones := func() int {
		b, err := os.ReadFile(filepath.Join(e.ExecRoot, "backends/vm/backend.log"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), "clone=true")
	}
	e.Until("there is a template", func() bool {
		e.Must("run", "--rm", "--isolation", "vm", "busybox", "true")
		return clones() > 0
	})
	before := clones()
	seen := map[string]string{}
	for i := range n {
		got := e.Must("run", "--rm", "--isolation", "vm", "busybox", "sh", "-c",
			"head -c 16 /dev/urandom | hexdump -C | head -n 1; cat /proc/sys/kernel/random/boot_id; cat /proc/sys/kernel/random/uuid; hostname; cat /sys/class/net/eth0/address")
		for _, line := range strings.Split(got, "\n") {
			if who, dup := seen[line]; dup {
				t.Errorf("machines %s and %d share %q", who, i, line)
			}
			seen[line] = fmt.Sprint(i)
		}
	}
	if made := clones() - before; made != n {
		t.Errorf("%d of %d machines were clones", made, n)
	}
	// The template is older than a clone, but its clock does not show it.
	low := time.Now().Add(-2 * time.Second)
	got := e.Must("run", "--rm", "--isolation", "vm", "busybox", "date", "-u", "+%s")
	high := time.Now().Add(2 * time.Second)
	if sec, err := strconv.ParseInt(got, 10, 64); err != nil || sec < low.Unix() || sec > high.Unix() {
		t.Errorf("the clone's clock says %s, the host's %v", got, high)
	}
}

// A machine from the pool is as any other, also for a backend that is started anew.
func TestPool(t *testing.T) {
	e := start(t, "--backend-opt", "vm.pool=1")
	log := func() string {
		b, err := os.ReadFile(filepath.Join(e.ExecRoot, "backends/vm/backend.log"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	e.Must("run", "--rm", "--isolation", "vm", "busybox", "true") // asks for the template
	e.Until("there is a template", func() bool {
		e.Must("run", "--rm", "--isolation", "vm", "busybox", "true")
		return strings.Contains(log(), "clone=true")
	})
	e.Until("a machine is kept ready", func() bool { return strings.Contains(log(), "msg=ready") })
	e.Must("run", "-d", "--name", "pooled", "--isolation", "vm", "-p", "127.0.0.1::80", "busybox", "sh", "-c", "echo pooled > /tmp/i; httpd -f -p 80 -h /tmp")
	if !strings.Contains(log(), "pooled=true") {
		t.Error("the machine was not the one that was ready")
	}
	for _, victim := range []string{"", "caisson-backend-vm", "caissond"} {
		if victim != "" {
			e.Kill(victim)
		}
		at := ""
		e.Until("the published port answers; killed: "+victim, func() bool {
			at = strings.TrimSpace(e.Caisson("port", "pooled", "80").Stdout)
			r, err := http.Get("http://" + at + "/i")
			if err != nil {
				return false
			}
			defer r.Body.Close()
			b, _ := io.ReadAll(r.Body)
			return string(b) == "pooled\n"
		})
	}
	e.Until("exec works", func() bool { return e.Caisson("exec", "pooled", "true").Code == 0 })
	if got := e.Must("exec", "pooled", "hostname"); !strings.HasPrefix(e.Must("inspect", "-f", "{{.Id}}", "pooled"), got) {
		t.Errorf("hostname %q", got)
	}
	e.Must("exec", "pooled", "sh", "-c", "echo kept > /root/f")
	e.Must("stop", "-t", "0", "pooled")
	e.Must("start", "pooled")
	if got := e.Must("exec", "pooled", "cat", "/root/f"); got != "kept" {
		t.Errorf("after a restart: %q", got)
	}
}

// Whoever is killed with -9: the engine and the backend take nothing with them;
// shim and monitor take their own machine, and say so.
func TestKilled(t *testing.T) {
	e := startHostile(t)
	run := func(name string) {
		e.Must("run", "-d", "--name", name, "--isolation", "vm", "busybox", "sh", "-c",
			`trap 'echo end; exit 17' TERM; i=0; while :; do echo $i; i=$((i+1)); usleep 20000; done`)
	}
	run("first")
	for _, name := range []string{"caissond", "caisson-backend-vm", "caissond", "caisson-backend-vm"} {
		e.Kill(name)
		e.Until("exec works again: "+name+" was killed", func() bool {
			r := e.Caisson("exec", "first", "echo", "alive")
			return r.Code == 0 && r.Stdout == "alive\n"
		})
	}
	var wg sync.WaitGroup
	var code string
	wg.Go(func() { code = strings.TrimSpace(e.Caisson("wait", "first").Stdout) })
	e.Must("kill", "-s", "TERM", "first")
	wg.Wait()
	if code != "17" {
		t.Errorf("exit code %q, want 17", code)
	}
	lines := strings.Split(e.Must("logs", "first"), "\n")
	for i, line := range lines[:len(lines)-1] {
		if line != fmt.Sprint(i) {
			t.Fatalf("line %d of %d is %q", i, len(lines), line)
		}
	}
	e.Must("rm", "first")

	for _, victim := range []string{"caisson-vmshim", "qemu"} {
		run("victim")
		run("other")
		e.Until("it writes", func() bool { return strings.Contains(e.Caisson("logs", "victim").Stdout, "5\n") })
		exec := e.Command("caisson", "exec", "victim", "sh", "-c", "while :; do echo x; usleep 10000; done")
		writes, err := exec.StdoutPipe()
		if err == nil {
			err = exec.Start()
		}
		if err == nil {
			_, err = writes.Read(make([]byte, 1))
		}
		if err != nil {
			t.Fatalf("exec: %v", err)
		}
		kill(t, e, victim, strings.TrimSpace(e.Must("inspect", "-f", "{{.Id}}", "victim")))
		if got := strings.TrimSpace(e.Must("wait", "victim")); got != "137" {
			t.Errorf("%s killed: exit code %s", victim, got)
		}
		if got := e.Must("inspect", "-f", "{{.State.Error}}", "victim"); !strings.Contains(got, "virtual machine") {
			t.Errorf("%s killed: inspect says %q", victim, got)
		}
		_, _ = io.Copy(io.Discard, writes)
		if _ = exec.Wait(); exec.ProcessState.ExitCode() != 137 {
			t.Errorf("%s killed: the exec in it: %v", victim, exec.ProcessState)
		}
		if got := e.Must("exec", "other", "echo", "alive"); got != "alive" {
			t.Errorf("%s killed: the other machine: %s", victim, got)
		}
		e.Must("start", "victim")
		if got := e.Must("exec", "victim", "echo", "alive"); got != "alive" {
			t.Errorf("%s killed: started again: %s", victim, got)
		}
		e.Must("rm", "-f", "victim", "other")
	}
}

// Whoever is killed while a machine is being made: what was asked for is there or
// not there, and can be taken away.
func TestKilledAtBirth(t *testing.T) {
	e := startHostile(t)
	e.Must("run", "--rm", "--isolation", "vm", "busybox", "true") // asks for the template
	n := 0
	for _, victim := range []string{"caissond", "caisson-backend-vm", "caisson-vmshim"} {
		for _, after := range []time.Duration{50, 200, 400} {
			n++
			name := fmt.Sprint("born", n)
			run := e.Command("caisson", "run", "-d", "--name", name, "--isolation", "vm", "busybox", "sleep", "1000")
			if err := run.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after * time.Millisecond) // another moment of its making each time
			if pid := e.PID(victim); pid != 0 {  // a shim may not be there yet
				e.Kill(victim)
			}
			err := run.Wait()
			e.WaitReady()
			state := strings.TrimSpace(e.Caisson("inspect", "-f", "{{.State.Status}} {{.State.Error}}", name).Stdout)
			t.Logf("%s killed after %d ms: run: %v; then %q", victim, after, err, state)
			if err == nil && victim != "caisson-vmshim" && !strings.HasPrefix(state, "running") {
				t.Errorf("%s killed after %d ms: run was well, but the container is %q", victim, after, state)
			}
			if state != "" {
				e.Must("rm", "-f", name)
			}
		}
	}
}

// kill kills the shim of a container's machine, or its monitor.
func kill(t *testing.T, e *harness.Engine, victim, id string) {
	t.Helper()
	pid := shim(t, e, id)
	if victim == "qemu" {
		pid = monitor(t, pid)
	}
	proc, err := os.FindProcess(pid)
	if err == nil {
		err = proc.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// shim is the process that guards a container's machine.
func shim(t *testing.T, e *harness.Engine, id string) int {
	t.Helper()
	for _, p := range e.Processes() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
		if err == nil && p.Name == "caisson-vmshim" && strings.Contains(string(line), id) {
			return p.PID
		}
	}
	t.Fatalf("no shim of container %s among %v", id, e.Processes())
	return 0
}

// monitor is a shim's QEMU.
func monitor(t *testing.T, shim int) (pid int) {
	t.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", shim, shim))
	if err != nil || len(strings.Fields(string(children))) != 1 {
		t.Fatalf("the shim's children: %q %v", children, err)
	}
	if _, err := fmt.Sscan(string(children), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

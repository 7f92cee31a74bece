package runtimes

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caisson-engine/caisson/platform_linux/pty"
	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
	"github.com/caisson-engine/caisson/tests/testruntime"
)

// start runs an engine whose policy declares gVisor's runsc, and a runtime that
// is not there.
func start(t *testing.T) *harness.Engine {
	t.Helper()
	harness.NeedRoot(t)
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	text := fmt.Sprintf(`
runtimes:
  runsc:
    path: %s
    level: sandbox
    strength: 200
    facts: {platform: systrap}
  absent:
    path: /nowhere/kata
    level: kata
    strength: 250
`, testruntime.Runsc(t))
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e := harness.Start(t, "--policy", policy)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	return e
}

// want runs a command and compares all it did.
func want(t *testing.T, e *harness.Engine, code int, stdout string, args ...string) {
	t.Helper()
	if r := e.Caisson(args...); r.Code != code || r.Stdout != stdout {
		t.Errorf("caisson %s: %v\nwant exit %d, stdout %q", strings.Join(args, " "), r, code, stdout)
	}
}

func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s lacks %q:\n%s", what, p, text)
		}
	}
}

// The same image runs on the host's kernel and on gVisor's.
func TestRunsc(t *testing.T) {
	e := start(t)
	host, err := os.ReadFile("/proc/version")
	if err != nil {
		t.Fatal(err)
	}
	for _, ask := range [][]string{{"--runtime", "runsc"}, {"--runtime", "runsc/sandbox"}, {"--isolation", "sandbox"}} {
		args := append(append([]string{"run", "--rm"}, ask...), "busybox", "sh", "-c", "cat /proc/version; dmesg")
		contains(t, strings.Join(args, " "), e.Must(args...), "gvisor", "Starting gVisor")
	}
	if got := e.Must("run", "--rm", "busybox", "cat", "/proc/version"); got != strings.TrimSpace(string(host)) {
		t.Errorf("the process level shows %q, want the host's", got)
	}
	if r := e.Docker("run", "--rm", "--runtime", "runsc", "busybox", "cat", "/proc/version"); r.Code != 0 || !strings.Contains(r.Stdout, "gvisor") {
		t.Errorf("docker run --runtime runsc: %v", r)
	}

	list := e.Must("backend", "ls", "--no-trunc")
	contains(t, "backend ls", list, "sandbox=200*", "level.declared-by=the host owner", "platform=systrap", "/nowhere/kata is not there")
	contains(t, "info", e.Must("info"), "runsc/sandbox", "/nowhere/kata is not there")
	if r := e.Caisson("run", "--rm", "--runtime", "absent", "busybox", "true"); r.Code != 125 || !strings.Contains(r.Stderr, "/nowhere/kata is not there") {
		t.Errorf("a runtime that is not there: %v", r)
	}
}

func TestRunscPrograms(t *testing.T) {
	e := start(t)
	run := []string{"run", "--rm", "--runtime", "runsc"}
	with := func(args ...string) []string { return append(run[:len(run):len(run)], args...) }
	want(t, e, 42, "", with("busybox", "sh", "-c", "exit 42")...)
	want(t, e, 137, "", with("busybox", "sh", "-c", "kill -9 $$")...)
	want(t, e, 127, "", with("busybox", "no-such-program")...)
	want(t, e, 126, "", with("busybox", "/etc/passwd")...)
	want(t, e, 0, "uid=1000(tester) gid=1001(tester) groups=1001(tester),50(staff)\n", with("--user", "tester", "busybox", "id")...)
	want(t, e, 0, "/work/dir\n", with("-w", "/work/dir", "busybox", "pwd")...)
	want(t, e, 0, "name\n", with("-h", "name", "busybox", "hostname")...)
	if r := e.Run("caisson", "through stdin\n", with("-i", "busybox", "cat")...); r.Code != 0 || r.Stdout != "through stdin\n" {
		t.Errorf("run -i: %v", r)
	}
	// A volume gets what the image has there, mounts inside a mount are seen.
	out := e.Must(with("-v", "accounts:/etc", "busybox", "ls", "/etc")...)
	contains(t, "a volume at /etc", out, "passwd", "hosts", "resolv.conf")
	contains(t, "privileged", e.Must(with("--privileged", "busybox", "cat", "/proc/version")...), "gvisor")
	for _, refused := range [][]string{
		{"--network", "host"}, {"--pid", "host"}, {"--ipc", "host"}, {"--device", "/dev/null:/dev/x"}, {"--userns", "private"}, {"--init"},
	} {
		r := e.Caisson(with(append(refused, "busybox", "true")...)...)
		if r.Code != 125 || !strings.Contains(r.Stderr, "runtime runsc cannot do this") {
			t.Errorf("%v: %v", refused, r)
		}
	}
}

// A container's life, with all that a client does meanwhile.
func TestRunscLife(t *testing.T) {
	e := start(t)
	e.Must("run", "-d", "--name", "web", "--runtime", "runsc", "-p", "127.0.0.1::80", "-m", "128m", "busybox", "sh", "-c",
		"mkdir /www; echo page > /www/index.html; echo serving; exec httpd -f -p 80 -h /www")
	address := e.Must("port", "web", "80")
	e.Until("the published port answers", func() bool { return get(address, "index.html") == "page\n" })
	if got := e.Must("logs", "web"); got != "serving" {
		t.Errorf("logs: %q", got)
	}
	want(t, e, 3, "inside\n", "exec", "web", "sh", "-c", "echo inside; exit 3")
	want(t, e, 127, "", "exec", "web", "no-such-program")
	if r := e.Run("caisson", "text\n", "exec", "-i", "web", "cat"); r.Stdout != "text\n" {
		t.Errorf("exec -i: %v", r)
	}
	if got := terminal(t, e, "stty size; test -t 0 && echo it is a terminal; exit 5\n", "exec", "-it", "web", "sh"); !strings.Contains(got, "24 80") || !strings.Contains(got, "\nit is a terminal") {
		t.Errorf("exec -it shows %q", got)
	}
	if got := terminal(t, e, "stty size; test -t 0 && echo it is a terminal; exit 5\n", "run", "-it", "--rm", "--runtime", "runsc", "busybox"); !strings.Contains(got, "24 80") || !strings.Contains(got, "\nit is a terminal") {
		t.Errorf("run -it shows %q", got)
	}

	// Files go in and out while it lives, and what changed is seen.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "new.html"), []byte("new\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	e.Must("cp", filepath.Join(dir, "new.html"), "web:/www/new.html")
	if got := get(address, "new.html"); got != "new\n" {
		t.Errorf("a file that cp brought: %q", got)
	}
	e.Must("exec", "web", "sh", "-c", "echo changed > /www/index.html")
	e.Must("cp", "web:/www/index.html", filepath.Join(dir, "out"))
	if b, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(b) != "changed\n" {
		t.Errorf("cp out: %q, %v", b, err)
	}
	contains(t, "diff", e.Must("diff", "web"), "A /www/index.html", "A /www/new.html")
	e.Must("commit", "web", "kept")
	want(t, e, 0, "changed\n", "run", "--rm", "kept", "cat", "/www/index.html")

	contains(t, "stats", e.Must("stats", "--no-stream", "web"), "/ 128MiB")
	e.Must("update", "-m", "256m", "--memory-swap", "-1", "web")
	contains(t, "stats", e.Must("stats", "--no-stream", "web"), "/ 256MiB")
	e.Must("pause", "web")
	if r := e.Caisson("exec", "web", "true"); r.Code == 0 {
		t.Errorf("exec in a paused container: %v", r)
	}
	e.Must("unpause", "web")
	want(t, e, 0, "on\n", "exec", "web", "echo", "on")
	if r := e.Caisson("top", "web"); r.Code == 0 || !strings.Contains(r.Stderr, "processes") {
		t.Errorf("top: %v", r)
	}
	e.Must("stop", "-t", "5", "web")
	if got := e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.HostConfig.Runtime}}", "web"); got != "exited 143 runsc/sandbox" {
		t.Errorf("after stop: %q", got)
	}
	e.Must("start", "web")
	e.Until("it serves again", func() bool { return get(e.Must("port", "web", "80"), "new.html") == "new\n" })
	e.Must("rm", "-f", "web")
}

func get(address, path string) string {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return ""
	}
	r, err := http.Get("http://" + address + "/" + path)
	if err != nil {
		return ""
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		return ""
	}
	return string(b)
}

// terminal runs a command on a terminal of 24 rows and 80 columns, types input
// and returns what was shown. The command must exit with 5.
func terminal(t *testing.T, e *harness.Engine, input string, args ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/pts/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	fd, err := pty.Peer(int(master.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	slave := os.NewFile(uintptr(fd), "slave")
	if err := pty.SetSize(int(master.Fd()), 24, 80); err != nil {
		t.Fatal(err)
	}
	cmd := e.Command("caisson", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	if _, err := master.WriteString(input); err != nil {
		t.Fatal(err)
	}
	shown := make(chan string)
	go func() {
		var all bytes.Buffer
		_, _ = io.Copy(&all, master) // ends with EIO when the last slave is closed
		shown <- all.String()
	}()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("caisson %s: exit %d, want 5", strings.Join(args, " "), code)
	}
	return <-shown
}

// processes are what is killed in turn.
var processes = []string{"caissond", "caisson-backend-oci", "caisson-oci-monitor"}

// A container counts while each of our processes is killed with -9, again and
// again: every number is in the log once and in order, exec works again, and wait
// gives the exit code.
func TestRunscKillRing(t *testing.T) {
	e := start(t)
	e.Must("run", "-d", "--name", "counter", "--runtime", "runsc", "busybox", "sh", "-c",
		`trap 'echo end; exit 17' TERM; i=0; while :; do echo $i; i=$((i+1)); usleep 10000; done`)
	for round := range 4 {
		for _, name := range processes {
			e.Kill(name)
			e.Until(fmt.Sprintf("exec works: %s killed, round %d", name, round), func() bool {
				r := e.Caisson("exec", "counter", "echo", "alive")
				return r.Code == 0 && r.Stdout == "alive\n"
			})
		}
	}
	wait := make(chan string, 1)
	go func() { wait <- e.Caisson("wait", "counter").Stdout }()
	e.Must("kill", "-s", "TERM", "counter")
	if got := strings.TrimSpace(<-wait); got != "17" {
		t.Errorf("wait says %q, want 17", got)
	}
	lines := strings.Split(e.Must("logs", "counter"), "\n")
	for i, line := range lines {
		if i == len(lines)-1 && line == "end" {
			break
		}
		if line != fmt.Sprint(i) {
			t.Fatalf("line %d of %d is %q", i, len(lines), line)
		}
	}
	// Exits that happen while something is down are not lost either.
	for i, name := range processes {
		c := fmt.Sprint("brief", i)
		e.Must("run", "-d", "--name", c, "--runtime", "runsc", "busybox", "sh", "-c", "usleep 300000; echo last words; exit 23")
		e.Kill(name)
		e.Until("the engine answers", func() bool { return e.Caisson("version").Code == 0 })
		if got := e.Must("wait", c); got != "23" {
			t.Errorf("%s killed: wait says %q, want 23", name, got)
		}
		if got := e.Must("logs", c); got != "last words" {
			t.Errorf("%s killed: the log says %q", name, got)
		}
		e.Must("rm", c)
	}
}

// An engine whose policy declares no runtime starts none of this.
func TestNothingAtRest(t *testing.T) {
	e := harness.Start(t)
	e.Must("run", "--rm", "caisson/hello")
	for _, p := range e.Processes() {
		if strings.Contains(p.Name, "oci") {
			t.Errorf("%s runs", p.Name)
		}
	}
}

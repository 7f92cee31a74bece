//go:build linux

package harness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// ready bounds how long an engine may take to answer.
const ready = 20 * time.Second

// Engine is one caissond with roots of its own.
type Engine struct {
	t        testing.TB
	DataRoot string
	ExecRoot string
	Host     string // -H of a client
	HostID   string
	args     []string
	log      *os.File
	cmd      *exec.Cmd
}

// Result is what a command did.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// NeedRoot skips a test with its reason.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, cgroups and mounts")
	}
}

// Need skips a test when a tool of Debian's is not there.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (make deps installs it)", tool)
		}
	}
}

var buildOnce sync.Once

// Bin is the directory of the built binaries. CAISSON_TEST_BIN names another;
// otherwise they are built once per test binary.
func Bin(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("CAISSON_TEST_BIN"); dir != "" {
		return dir
	}
	root := Top(t)
	buildOnce.Do(func() {
		out, err := exec.Command("make", "-C", root, "build").CombinedOutput()
		if err != nil {
			t.Fatalf("make build: %v\n%s", err, out)
		}
	})
	return filepath.Join(root, "bin")
}

// Top is the root of the source tree.
func Top(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// Start runs an engine until the test ends, then checks that nothing is left of
// it. args are added to its command line.
func Start(t testing.TB, args ...string) *Engine {
	t.Helper()
	NeedRoot(t)
	SameAtLevel(t)
	Bin(t)
	// Sockets have short names (unix(7): 108 bytes), test directories have not.
	exec, err := os.MkdirTemp("/run", "cst")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.MkdirTemp("/var/tmp", "caisson-test")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(exec))
	e := &Engine{
		t: t, DataRoot: data, ExecRoot: exec, Host: "unix://" + exec + "/caisson.sock",
		HostID: hex.EncodeToString(sum[:4]), args: append(levelArgs(t, data, args), args...),
	}
	if e.log, err = os.Create(filepath.Join(data, "caissond.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.end)
	e.Boot()
	return e
}

// Boot starts the engine's process and waits until it answers.
func (e *Engine) Boot() {
	e.t.Helper()
	args := append([]string{"--data-root", e.DataRoot, "--exec-root", e.ExecRoot, "-H", e.Host, "--log-level", "debug"}, e.args...)
	e.cmd = exec.Command(filepath.Join(Bin(e.t), "caissond"), args...)
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	cmd := e.cmd
	go func() { _ = cmd.Wait() }() // reaps it whenever it ends
	e.WaitReady()
}

// WaitReady waits until the engine answers.
func (e *Engine) WaitReady() {
	e.t.Helper()
	e.Until("the engine answers", func() bool { return e.Caisson("version").Code == 0 })
}

// Until polls for a condition that another process brings about.
func (e *Engine) Until(what string, cond func() bool) {
	e.t.Helper()
	deadline := time.Now().Add(ready)
	for !cond() {
		if time.Now().After(deadline) {
			e.t.Fatalf("waited %s in vain: %s\n%s", ready, what, e.Log())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Log is the end of the engine's log.
func (e *Engine) Log() string {
	b, _ := os.ReadFile(e.log.Name())
	return string(b[max(0, len(b)-4000):])
}

// Command is a client's command, ready to run.
func (e *Engine) Command(client string, args ...string) *exec.Cmd {
	path := client
	if client == "caisson" {
		path = filepath.Join(Bin(e.t), "caisson")
	}
	cmd := exec.Command(path, append([]string{"-H", e.Host}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+e.DataRoot, "DOCKER_BUILDKIT=0", "DOCKER_CLI_HINTS=false")
	return cmd
}

// Run runs a client with input and returns what it did; see Do.
func (e *Engine) Run(client, input string, args ...string) Result {
	e.t.Helper()
	cmd := e.Command(client, args...)
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	return Do(e.t, cmd)
}

// tooLong bounds one command of a client.
const tooLong = 30 * time.Second

// Do runs a command to its end. One that takes too long is killed and has the
// exit code -1. Of a suite that runs at an emulated level, stderr is without the
// warning of that.
func Do(t testing.TB, cmd *exec.Cmd) Result {
	t.Helper()
	return DoWithin(t, cmd, tooLong)
}

// DoWithin is Do for a command that has a time of its own.
func DoWithin(t testing.TB, cmd *exec.Cmd, limit time.Duration) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd.WaitDelay = time.Second
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	said := stderr.String()
	if Level() != "" {
		said = emulated.ReplaceAllString(said, "")
	}
	return Result{stdout.String(), said, cmd.ProcessState.ExitCode()}
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// Caisson runs our client.
func (e *Engine) Caisson(args ...string) Result {
	e.t.Helper()
	return e.Run("caisson", "", args...)
}

// Docker runs the real docker client; the test is skipped where there is none.
func (e *Engine) Docker(args ...string) Result {
	e.t.Helper()
	Need(e.t, "docker")
	return e.Run("docker", "", args...)
}

// Must runs our client and fails the test unless it exits with 0. It returns
// the trimmed output.
func (e *Engine) Must(args ...string) string {
	e.t.Helper()
	r := e.Caisson(args...)
	if r.Code != 0 {
		e.t.Fatalf("caisson %s: exit %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// Load loads an archive as an image.
func (e *Engine) Load(archive string) {
	e.t.Helper()
	e.Must("load", "-i", archive)
}

// Process is one of the engine's own processes.
type Process struct {
	PID  int
	Name string // caissond, caisson-backend-linux, caisson-keeper
}

// Processes lists the living processes of this engine: those of our binaries
// that name its exec root in their command line or environment.
func (e *Engine) Processes() []Process {
	var all []Process
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, err := os.ReadFile(dir + "/cmdline")
		if err != nil || len(cmdline) == 0 {
			continue
		}
		name := filepath.Base(strings.SplitN(string(cmdline), "\x00", 2)[0])
		if !strings.HasPrefix(name, "caisson") || name == "caisson" {
			continue
		}
		environ, _ := os.ReadFile(dir + "/environ")
		if !bytes.Contains(cmdline, []byte(e.ExecRoot)) && !bytes.Contains(environ, []byte(e.ExecRoot)) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		all = append(all, Process{pid, name})
	}
	return all
}

// PID is the process of that name, 0 if none lives.
func (e *Engine) PID(name string) int {
	for _, p := range e.Processes() {
		if p.Name == name {
			return p.PID
		}
	}
	return 0
}

// Kill kills one of the engine's processes with SIGKILL and waits until it is
// gone.
func (e *Engine) Kill(name string) {
	e.t.Helper()
	pid := e.PID(name)
	if pid == 0 {
		e.t.Fatalf("no %s runs", name)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		e.t.Fatal(err)
	}
	e.Until(name+" is gone", func() bool { return e.PID(name) != pid })
}

// Crash ends all of the engine's processes and all of its containers' at once, and
// takes away what a reboot of the host takes away. Boot starts the engine again.
func (e *Engine) Crash() {
	e.t.Helper()
	e.Until("all processes are gone", func() bool {
		pids := e.containerPIDs()
		for _, p := range e.Processes() {
			pids = append(pids, p.PID)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(pids) == 0
	})
	state, _ := filepath.Glob(filepath.Join(e.ExecRoot, "*"))
	for _, s := range state {
		if err := os.RemoveAll(s); err != nil {
			e.t.Fatal(err)
		}
	}
}

// containerPIDs are the processes in the engine's cgroups.
func (e *Engine) containerPIDs() []int {
	var pids []int
	for _, root := range []string{"/sys/fs/cgroup/*/caisson-" + e.HostID, "/sys/fs/cgroup/caisson-" + e.HostID} {
		dirs, _ := filepath.Glob(root)
		for _, dir := range dirs {
			_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, _ error) error {
				if d == nil || d.Name() != "cgroup.procs" {
					return nil
				}
				b, _ := os.ReadFile(path)
				for _, f := range strings.Fields(string(b)) {
					if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
						pids = append(pids, pid)
					}
				}
				return nil
			})
		}
	}
	return pids
}

// Stop ends the engine as a service manager would; containers go on.
func (e *Engine) Stop() {
	e.t.Helper()
	pid := e.PID("caissond")
	if pid == 0 {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	e.Until("the engine stops", func() bool { return e.PID("caissond") == 0 })
}

// end removes every container, ends all processes and looks for leftovers.
func (e *Engine) end() {
	if e.t.Failed() {
		e.t.Logf("the engine's log ends with:\n%s", e.Log())
		logs, _ := filepath.Glob(filepath.Join(e.ExecRoot, "backends/*/backend.log"))
		for _, l := range logs {
			if b, err := os.ReadFile(l); err == nil && len(b) > 0 {
				e.t.Logf("%s begins with:\n%s\nand ends with:\n%s", l, b[:min(len(b), 4000)], tail(string(b)))
			}
		}
	}
	if e.PID("caissond") != 0 {
		if ids := strings.Fields(e.Caisson("ps", "-aq").Stdout); len(ids) > 0 {
			e.Caisson(append([]string{"rm", "-f", "-v"}, ids...)...)
		}
		e.Stop()
	}
	for _, p := range e.Processes() {
		_ = syscall.Kill(p.PID, syscall.SIGTERM)
	}
	deadline := time.Now().Add(3 * time.Second)
	for len(e.Processes()) > 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	for _, p := range e.Processes() {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
	if left := e.Leftovers(); len(left) > 0 && !e.t.Failed() {
		e.t.Errorf("the engine left behind:\n%s", strings.Join(left, "\n"))
	}
	e.purge()
	e.log.Close()
	os.RemoveAll(e.DataRoot)
	os.RemoveAll(e.ExecRoot)
}

// Leftovers lists what of containers is on the host: cgroups, mounts, veth
// links and firewall elements. It waits a moment for what the kernel frees in
// the background.
func (e *Engine) Leftovers() []string {
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := e.leftovers()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (e *Engine) leftovers() (left []string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, e.DataRoot) || strings.Contains(line, e.ExecRoot) {
			left = append(left, "mount: "+line)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/caisson-" + e.HostID + "/*")
	unified, _ := filepath.Glob("/sys/fs/cgroup/caisson-" + e.HostID + "/*")
	for _, g := range append(groups, unified...) {
		if fi, err := os.Stat(g); err == nil && fi.IsDir() {
			left = append(left, "cgroup: "+g)
		}
	}
	links, _ := filepath.Glob("/sys/class/net/*/master")
	for _, l := range links {
		if to, _ := os.Readlink(l); strings.HasPrefix(filepath.Base(to), "cs"+e.HostID) {
			left = append(left, "link: "+filepath.Base(filepath.Dir(l)))
		}
	}
	return left
}

// purge takes away what an engine keeps for its next start: bridge, firewall
// table, cgroup parents.
func (e *Engine) purge() {
	bridges, _ := filepath.Glob("/sys/class/net/cs" + e.HostID + "*")
	for _, b := range bridges {
		_ = exec.Command("ip", "link", "delete", filepath.Base(b)).Run()
	}
	_ = exec.Command("nft", "delete", "table", "inet", "caisson_"+e.HostID).Run()
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/caisson-" + e.HostID)
	for _, g := range append(groups, "/sys/fs/cgroup/caisson-"+e.HostID) {
		_ = os.Remove(g)
	}
}

// Dockerd runs a real dockerd of Debian's, without bridge and firewall, until
// the test ends, and returns its host.
func Dockerd(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	Need(t, "dockerd", "containerd")
	dir, err := os.MkdirTemp("/run", "csd")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.MkdirTemp("/var/tmp", "caisson-dockerd")
	if err != nil {
		t.Fatal(err)
	}
	host := "unix://" + dir + "/d.sock"
	log, err := os.Create(filepath.Join(data, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dockerd", "--data-root", filepath.Join(data, "root"), "--exec-root", filepath.Join(dir, "e"),
		"--pidfile", filepath.Join(dir, "pid"), "-H", host, "--bridge", "none", "--iptables=false", "--ip6tables=false")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
		_ = exec.Command("umount", "-R", "-q", filepath.Join(data, "root")).Run()
		_ = exec.Command("umount", "-q", filepath.Join(dir, "e/netns/default")).Run()
		os.RemoveAll(data)
		os.RemoveAll(dir)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for exec.CommandContext(ctx, "docker", "-H", host, "version").Run() != nil {
		if ctx.Err() != nil {
			_, _ = log.Seek(0, io.SeekStart)
			b, _ := io.ReadAll(log)
			t.Fatalf("dockerd does not answer:\n%s", tail(string(b)))
		}
		time.Sleep(100 * time.Millisecond)
	}
	return host
}

// String is for messages.
func (r Result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
}

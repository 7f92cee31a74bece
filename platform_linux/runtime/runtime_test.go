//go:build linux

package runtime

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// binBuilt names a directory of binaries that are built already, where there is
// no Go: in a guest.
var binBuilt = os.Getenv("CAISSON_TEST_BIN")

// binaries builds caisson-init and caisson-keeper once for all tests.
var binaries = sync.OnceValues(func() (string, error) {
	if binBuilt != "" {
		return binBuilt, nil
	}
	dir, err := os.MkdirTemp("", "caisson-runtime-test")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/",
		"github.com/caisson-engine/caisson/cmd/caisson-init", "github.com/caisson-engine/caisson/cmd/caisson-keeper")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.New(string(out))
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	if runHelper() {
		return
	}
	code := m.Run()
	if dir, err := binaries(); err == nil && dir != binBuilt {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// needsRoot skips a test that cannot run here, and says why.
func needsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes containers")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs /bin/busybox: install busybox-static")
	}
}

// rig is a runtime of a test's own.
type rig struct {
	t   testing.TB
	r   *Runtime
	cfg Config
}

func newRig(t testing.TB) *rig {
	t.Helper()
	needsRoot(t)
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	// Short, for the socket in it.
	dir, err := os.MkdirTemp("/run", "crt")
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{t: t, cfg: Config{
		Dir: dir, InitPath: filepath.Join(bin, "caisson-init"), KeeperPath: filepath.Join(bin, "caisson-keeper"),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}}
	g.r = g.open()
	t.Cleanup(func() {
		keeper := g.r.KeeperPID()
		g.r.mu.Lock()
		var left []*Process
		for _, p := range g.r.procs {
			left = append(left, p)
		}
		g.r.mu.Unlock()
		for _, p := range left {
			p.Release()
		}
		g.r.Close()
		os.RemoveAll(dir)
		endKeeper(keeper)
	})
	return g
}

func (g *rig) open() *Runtime {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := Open(ctx, g.cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

// endKeeper ends a keeper that the test's own runtime started.
func endKeeper(pid int) {
	if p, err := os.FindProcess(pid); err == nil && pid > 0 {
		p.Kill()
	}
}

// busybox makes a root filesystem with a static busybox and what a test adds.
func busybox(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp", "root", "home"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n")
	write(t, filepath.Join(dir, "etc/group"), "root:x:0:\nwheel:x:10:root,alice\nalice:x:1001:\nstaff:x:50:alice\n")
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"sh", "true", "false", "cat", "ls", "id", "sleep", "echo", "env", "pwd", "kill", "readlink", "touch", "mkdir", "stat", "test", "grep", "hostname", "tty", "stty", "mount", "umount", "mknod", "head", "seq", "wc", "ps", "chmod", "dd", "unshare", "sed"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// ordinary is a spec like Docker's of an ordinary container.
func ordinary(rootfs string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: args, Env: []string{"PATH=/bin:/usr/bin"}, Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: defaultCaps, Permitted: defaultCaps, Effective: defaultCaps},
		},
		Root:     &specs.Root{Path: rootfs},
		Hostname: "box",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths:   []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// result is how a process ended and what it wrote.
type result struct {
	out  string
	exit Exit
	err  error // of Create or Start
}

func (g *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	g.t.Cleanup(cancel)
	return ctx
}

// run creates, starts and waits for a container, and releases it.
func (g *rig) run(o CreateOptions) result {
	g.t.Helper()
	if o.Key == "" {
		o.Key = "c" + strings.ReplaceAll(g.t.Name(), "/", "_")
	}
	out, done := g.output(&o.Stdout, &o.Stderr)
	p, err := g.r.Create(g.ctx(), o)
	if err != nil {
		done()
		return result{err: err}
	}
	defer p.Release()
	return g.finish(p, out, done)
}

// output gives a process a pipe to write to, and collects what comes out. done
// closes our end of it.
func (g *rig) output(stdout, stderr **os.File) (<-chan string, func()) {
	pr, pw, err := os.Pipe()
	if err != nil {
		g.t.Fatal(err)
	}
	*stdout = pw
	if *stderr == nil {
		*stderr = pw
	}
	c := make(chan string, 1)
	go func() {
		var b bytes.Buffer
		io.Copy(&b, pr)
		pr.Close()
		c <- b.String()
	}()
	return c, func() { pw.Close() }
}

func (g *rig) finish(p *Process, out <-chan string, done func()) result {
	g.t.Helper()
	err := p.Start(g.ctx())
	done()
	if err != nil {
		return result{err: err}
	}
	exit := g.wait(p)
	return result{out: <-out, exit: exit}
}

func (g *rig) wait(p *Process) Exit {
	g.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		g.t.Fatalf("%s did not end", p.Key())
	}
	return p.Exit()
}

// sh runs a shell script in an ordinary container, and fails the test if it
// cannot be run.
func (g *rig) sh(script string, change ...func(*CreateOptions)) result {
	g.t.Helper()
	o := CreateOptions{Spec: ordinary(busybox(g.t), "/bin/sh", "-c", script)}
	for _, c := range change {
		c(&o)
	}
	res := g.run(o)
	if res.err != nil {
		g.t.Fatal(res.err)
	}
	return res
}

func TestOrdinary(t *testing.T) {
	g := newRig(t)
	res := g.sh("echo hello; exit 7")
	if res.out != "hello\n" || res.exit.Code != 7 {
		t.Errorf("got %+v", res)
	}
}

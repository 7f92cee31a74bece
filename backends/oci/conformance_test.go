//go:build linux

package oci_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/backends/oci"
	"github.com/caisson-engine/caisson/backends/oci/monitor"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/backend/backendtest"
	"github.com/caisson-engine/caisson/engine/backend/plugin"
	"github.com/caisson-engine/caisson/tests/testruntime"
)

// binaries are those of CAISSON_TEST_BIN, or built once from this tree.
var binaries = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("CAISSON_TEST_BIN"); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "cs-bin-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir, "./cmd/caisson-backend-oci")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Geteuid() == 0 && os.Getenv("CAISSON_TEST_BIN") == "" {
		if dir, err := binaries(); err == nil {
			_ = os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

func needsRoot(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: runs containers")
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// busybox makes a root filesystem to be shared by containers.
func busybox(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox (apt install busybox-static)")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "image")
	for _, d := range []string{"bin", "etc", "dev", "proc", "sys", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "echo", "cat", "sleep", "true", "stty", "head", "yes", "kill", "id", "tail"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/plain": "not a program\n"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// stateDir is short enough for sockets inside, wherever TMPDIR is.
func stateDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "csb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// host is one backend under test, as the engine sees it: a plugin process.
type host struct {
	t       testing.TB
	image   string
	options plugin.Options
	parent  string // cgroup
	client  *plugin.Client
}

func newHost(t testing.TB, rt oci.Runtime) *host {
	t.Helper()
	bin := needsRoot(t)
	dir := stateDir(t)
	h := &host{t: t, image: busybox(t), parent: "/caisson-" + filepath.Base(dir)}
	env, err := rt.Env()
	if err != nil {
		t.Fatal(err)
	}
	h.options = plugin.Options{
		Name: rt.Name, Path: filepath.Join(bin, "caisson-backend-oci"), StateDir: filepath.Join(dir, "s"),
		Env: []string{backend.EnvCgroupParent + "=" + h.parent, env}, Log: slog.New(slog.DiscardHandler), LogLevel: slog.LevelDebug,
	}
	h.launch()
	t.Cleanup(h.end)
	return h
}

func (h *host) launch() {
	h.t.Helper()
	c, err := plugin.Launch(context.Background(), h.options)
	if err != nil {
		h.t.Fatal(err)
	}
	h.client = c
}

// crash kills the backend as SIGKILL does and opens the next.
func (h *host) crash(meanwhile func()) {
	h.t.Helper()
	if err := syscall.Kill(h.client.PID(), syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	<-h.client.Done()
	meanwhile()
	h.client.Disconnect()
	h.launch()
}

// end closes everything and looks for what is left.
func (h *host) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if list, err := h.client.List(ctx); err != nil {
		h.t.Error(err)
	} else {
		for _, id := range list.GetSandboxes() {
			if err := h.client.Close(ctx, id); err != nil {
				h.t.Error(err)
			}
		}
	}
	h.client.Kill()
	if h.t.Failed() {
		if b, err := os.ReadFile(filepath.Join(h.options.StateDir, "backend.log")); err == nil {
			h.t.Logf("backend's log:\n%.8000s", b)
		}
	}
	h.endMonitor()
	if b, _ := os.ReadFile("/proc/self/mountinfo"); bytes.Contains(b, []byte(h.options.StateDir)) {
		h.t.Errorf("mounts are left:\n%s", b)
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + h.parent + "/*/")
	if len(groups) > 0 {
		h.t.Errorf("control groups are left: %v", groups)
	}
	parents, _ := filepath.Glob("/sys/fs/cgroup/*" + h.parent)
	for _, g := range append(parents, "/sys/fs/cgroup"+h.parent) {
		_ = os.Remove(g)
	}
}

// monitor is the process of the backend's monitor, 0 if there is none.
func (h *host) monitor() int {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil || !bytes.HasPrefix(b, []byte(monitor.Name+"\x00")) || !bytes.Contains(b, []byte(h.options.StateDir+"/")) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(p, "/proc/%d/cmdline", &pid); err == nil {
			return pid
		}
	}
	return 0
}

// endMonitor waits until the monitor has ended, which it does by itself when it
// holds nothing and nobody is connected.
func (h *host) endMonitor() {
	deadline := time.Now().Add(10 * time.Second)
	for pid := h.monitor(); pid != 0; pid = h.monitor() {
		time.Sleep(5 * time.Millisecond)
		if time.Now().After(deadline) {
			h.t.Errorf("the monitor is left: %d", pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
			return
		}
	}
}

// process is what the engine writes for a plain program.
func process(terminal bool, args ...string) *specs.Process {
	caps := []string{"CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE"}
	return &specs.Process{
		Terminal: terminal, Args: args, Env: []string{"PATH=/bin"}, Cwd: "/", NoNewPrivileges: true,
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
	}
}

func processJSON(t testing.TB, terminal bool, args ...string) []byte {
	t.Helper()
	b, err := json.Marshal(process(terminal, args...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (h *host) container(t testing.TB, id string, terminal bool, args ...string) *backendpb.Container {
	t.Helper()
	ptr := func(n int64) *int64 { return &n }
	spec := specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"}, Hostname: id, Process: process(terminal, args...),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.IPCNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace},
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
				{Access: "rwm"},
				{Allow: true, Type: "c", Access: "m"}, {Allow: true, Type: "b", Access: "m"},
				{Allow: true, Type: "c", Major: ptr(1), Access: "rwm"},
				{Allow: true, Type: "c", Major: ptr(5), Access: "rwm"}, {Allow: true, Type: "c", Major: ptr(136), Access: "rwm"},
			}},
		},
	}
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &backendpb.Container{Id: id, Spec: b, Rootfs: []*backendpb.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + h.image, "upperdir=" + filepath.Join(dir, "upper"), "workdir=" + filepath.Join(dir, "work"),
	}}}}
}

// runtimes are what the suite runs with.
var runtimes = []struct {
	name    string
	runtime func(t *testing.T) oci.Runtime
	without map[string]string
}{
	{name: "runc", runtime: func(t *testing.T) oci.Runtime {
		return oci.Runtime{Name: "runc", Path: tool(t, "runc"), Level: "process", Strength: backend.StrengthProcess}
	}},
	{name: "crun", runtime: func(t *testing.T) oci.Runtime {
		return oci.Runtime{Name: "crun", Path: crun(t), Level: "process", Strength: backend.StrengthProcess}
	}, without: map[string]string{
		"ResizeSetsTheSize": "crun gives away the terminal of an exec while its program already runs, so the size may come a moment late",
	}},
	{name: "runsc", runtime: func(t *testing.T) oci.Runtime {
		return oci.Runtime{Name: "runsc", Path: testruntime.Runsc(t), Level: "sandbox", Strength: 200}
	}},
}

func tool(t *testing.T, name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s (make deps installs it)", name)
	}
	return path
}

// crun refuses hosts that have both versions of control groups; there it is shown
// only the first, by what a host owner could declare in its place.
func crun(t *testing.T) string {
	path := tool(t, "crun")
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(unified); err != nil {
		return path
	}
	wrapper := filepath.Join(t.TempDir(), "crun")
	text := fmt.Sprintf("#!/bin/sh\nexec unshare --mount --propagation slave sh -c 'umount %s; exec %s \"$@\"' crun \"$@\"\n", unified, path)
	if err := os.WriteFile(wrapper, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return wrapper
}

func TestConformance(t *testing.T) {
	needsRoot(t)
	for _, r := range runtimes {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			rt := r.runtime(t)
			backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
				h := newHost(t, rt)
				return h.fixture(t, r.without)
			})
		})
	}
}

func (h *host) fixture(t *testing.T, without map[string]string) backendtest.Fixture {
	return backendtest.Fixture{
		Backend: h.client,
		Container: func(t *testing.T, id string, terminal bool, args ...string) *backendpb.Container {
			return h.container(t, id, terminal, args...)
		},
		Process: func(terminal bool, args ...string) []byte { return processJSON(t, terminal, args...) },
		Crash: func(_ *testing.T, meanwhile func()) backend.Backend {
			h.crash(meanwhile)
			return h.client
		},
		NotExecutable: "/etc/plain",
		TerminalSize:  []string{"stty", "size"},
		Flood: func(n int) []string {
			return []string{"sh", "-c", fmt.Sprintf("yes 0123456789 | head -c %d", n)}
		},
		Without: without,
	}
}

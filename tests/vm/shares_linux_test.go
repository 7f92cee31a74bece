package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/tests/testimage"
)

// filecheck is the program of that name.
func filecheck(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "filecheck")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", path, "./filecheck")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// Programs see no difference between a bind mount at the process level and one in a
// virtual machine.
func TestSharedFilesAreTheSame(t *testing.T) {
	e := start(t)
	program, dir := filecheck(t), t.TempDir()
	saw := map[string][]string{}
	for _, level := range []string{"process", "vm"} {
		at := filepath.Join(dir, level)
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		out := e.Must("run", "--rm", "--isolation", level, "-v", program+":/filecheck:ro", "-v", at+":/shared", "busybox", "/filecheck", "sharetest", "/shared")
		saw[level] = strings.Split(out, "\n")
	}
	for i, want := range saw["process"] {
		if got := saw["vm"][i]; got != want || strings.Contains(want, "error: ") {
			t.Errorf("vm      %s\nprocess %s", got, want)
		}
	}
	if len(saw["process"]) < 10 {
		t.Errorf("only %d observations", len(saw["process"]))
	}
}

// Host, process container and machine have the same files at the same time.
func TestShares(t *testing.T) {
	e := start(t)
	dir := t.TempDir()
	host := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(b))
	}
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("conf", "first")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	mounts := []string{"-v", filecheck(t) + ":/filecheck:ro", "-v", "data:/data", "-v", dir + ":/dir", "-v", dir + ":/ro:ro", "-v", filepath.Join(dir, "conf") + ":/etc/conf", "--mount", "type=bind,src=" + filepath.Join(dir, "sub") + ",dst=/sub"}
	for _, level := range []string{"process", "vm"} {
		e.Must(append(append([]string{"run", "-d", "--name", level, "--isolation", level}, mounts...), "busybox", "sleep", "1000")...)
	}
	in := func(name, command string) string { return e.Must("exec", name, "sh", "-c", command) }
	in("process", "echo from-process > /data/p")
	in("vm", "echo from-vm > /data/v; echo written > /dir/w; echo deep > /sub/d")
	for what, got := range map[string][2]string{
		"process in vm": {in("vm", "cat /data/p"), "from-process"}, "vm in process": {in("process", "cat /data/v"), "from-vm"},
		"vm on host": {host("w"), "written"}, "another mount on host": {host("sub/d"), "deep"}, "within the machine": {in("vm", "cat /dir/sub/d /ro/w"), "deep\nwritten"},
		"a file": {in("vm", "cat /etc/conf"), "first"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %q, want %q", what, got[0], got[1])
		}
	}
	put("conf", "second")
	e.Until("the machine sees the new text", func() bool { return in("vm", "cat /etc/conf") == "second" })
	in("vm", "echo third > /etc/conf")
	if got := host("conf"); got != "third" {
		t.Errorf("a bound file on the host: %q", got)
	}
	for _, command := range []string{"echo x > /ro/x", "rm /ro/conf", "mkdir /ro/d", "mount -o remount,rw /ro"} {
		if r := e.Caisson("exec", "vm", "sh", "-c", command); r.Code == 0 {
			t.Errorf("%s: %v", command, r)
		}
	}
	// A lock holds between levels.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	try := func() string { return e.Must("exec", "vm", "/filecheck", "sharetest-lock", "-", "/dir/lock") }
	if got := try(); !strings.Contains(got, unix.EAGAIN.Error()) {
		t.Errorf("a lock of the host does not hold in a machine: %s", got)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if got := try(); strings.Contains(got, unix.EAGAIN.Error()) {
		t.Errorf("a lock that nobody holds: %s", got)
	}
	// Engine and backend come and go; the files stay.
	e.Kill("caisson-backend-vm")
	e.Until("the backend is back", func() bool { return e.Caisson("exec", "vm", "true").Code == 0 })
	in("vm", "echo after > /data/after")
	if got := in("process", "cat /data/after"); got != "after" {
		t.Errorf("after a restart of the backend: %q", got)
	}
	// A volume is in no commit; a stopped container's is reached all the same.
	e.Must("stop", "-t", "0", "vm")
	e.Until("the machine is gone", func() bool { return e.PID("caisson-vmfiles") == 0 })
	if got := e.Must("cp", "vm:/data/v", "-"); !strings.Contains(got, "from-vm") {
		t.Errorf("cp from a volume: %q", got)
	}
	put("copied", "copied")
	e.Must("cp", filepath.Join(dir, "copied"), "vm:/data/copied")
	if got := in("process", "cat /data/copied"); got != "copied" {
		t.Errorf("cp into a volume: %q", got)
	}
	e.Must("commit", "vm", "vm:2")
	if got := e.Must("run", "--rm", "vm:2", "sh", "-c", "ls /data /dir"); got != "/data:\n\n/dir:" {
		t.Errorf("what a commit holds of volumes: %q", got)
	}
}

// What an image has where a volume comes is in the volume, at whatever level it is
// used first; --volumes-from means the same volume.
func TestVolumes(t *testing.T) {
	e := start(t)
	e.Load(testimage.Busybox(t, testimage.Config{Ref: "filled:latest"}, testimage.File{Name: "filled/", Mode: 0o755}, testimage.File{Name: "filled/f", Data: "content\n", Mode: 0o640, UID: 5, GID: 6}))
	run := func(level string, args ...string) string {
		return e.Must(append([]string{"run", "--isolation", level}, args...)...)
	}
	const look = "stat -c '%a %u %g' /filled/f; cat /filled/f"
	for i, level := range []string{"vm", "process"} {
		volume := "v" + string(rune('0'+i)) + ":/filled"
		for _, again := range []string{"vm", "process"} {
			if got := run(again, "--rm", "-v", volume, "filled", "sh", "-c", look); got != "640 5 6\ncontent" {
				t.Errorf("first at level %s, then %s: %q", level, again, got)
			}
		}
	}
	run("vm", "--name", "first", "-v", "/anonymous", "busybox", "sh", "-c", "echo kept > /anonymous/f")
	for _, level := range []string{"process", "vm"} {
		if got := run(level, "--rm", "--volumes-from", "first:ro", "busybox", "sh", "-c", "cat /anonymous/f; echo x > /anonymous/x || echo read-only"); got != "kept\nread-only" {
			t.Errorf("--volumes-from at level %s: %q", level, got)
		}
	}
}

// The process that hears a guest about files has nothing but them.
func TestFileServerIsJailed(t *testing.T) {
	e := start(t)
	e.Must("run", "-d", "--name", "jailed", "--isolation", "vm", "-v", "data:/data", "busybox", "sleep", "1000")
	proc := fmt.Sprintf("/proc/%d/", e.PID("caisson-vmfiles"))
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID and SETUID.
	for _, want := range []string{"CapPrm:\t00000000000000db", "CapEff:\t00000000000000db", "CapBnd:\t00000000000000db", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	if root, err := os.ReadDir(proc + "root"); err != nil || len(root) > 0 {
		t.Errorf("its root: %v %v", root, err)
	}
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		its, err := os.Readlink(proc + "ns/" + ns)
		ours, _ := os.Readlink("/proc/self/ns/" + ns)
		if err != nil || its == ours {
			t.Errorf("namespace %s: %s, ours is %s, %v", ns, its, ours, err)
		}
	}
	fds, err := os.ReadDir(proc + "fd")
	for _, fd := range fds {
		to, _ := os.Readlink(proc + "fd/" + fd.Name())
		if !strings.HasPrefix(to, "socket:") && !strings.HasPrefix(to, "anon_inode:") && to != "/" && to != "/dev/null" && !strings.HasSuffix(to, "/log") {
			t.Errorf("it has %s open", to)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// A machine whose file server is gone ends, and says why.
func TestFileServerKilled(t *testing.T) {
	e := start(t)
	e.Must("run", "-d", "--name", "killed", "--isolation", "vm", "-v", "data:/data", "busybox", "sleep", "1000")
	e.Kill("caisson-vmfiles")
	e.Until("the container has ended", func() bool { return e.Must("inspect", "-f", "{{.State.Running}}", "killed") == "false" })
	if got := e.Must("inspect", "-f", "{{.State.Error}}", "killed"); !strings.Contains(got, "files") {
		t.Errorf("the reason: %q", got)
	}
	e.Must("start", "killed")
	if got := e.Must("exec", "killed", "ls", "-d", "/data"); got != "/data" {
		t.Errorf("started again: %q", got)
	}
}

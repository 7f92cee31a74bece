//go:build linux

package runtime

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestSignals(t *testing.T) {
	g := newRig(t)
	for _, reaper := range []bool{false, true} {
		for _, c := range []struct {
			sig    syscall.Signal
			script string
			want   int
		}{
			{syscall.SIGKILL, "sleep 100", 137},
			{syscall.SIGTERM, "trap 'exit 5' TERM; echo up; while true; do sleep 0.02; done", 5},
			{syscall.SIGUSR1, "trap 'exit 6' USR1; echo up; while true; do sleep 0.02; done", 6},
		} {
			o := CreateOptions{Key: "sig", Spec: ordinary(busybox(t), "/bin/sh", "-c", c.script), Reaper: reaper}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			o.Stdout = w
			p, err := g.r.Create(g.ctx(), o)
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
			if err := p.Start(g.ctx()); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(c.script, "echo up") {
				if line, err := bufio.NewReader(r).ReadString('\n'); line != "up\n" {
					t.Fatalf("%q, %v", line, err)
				}
			}
			if err := p.Signal(c.sig); err != nil {
				t.Error(err)
			}
			if exit := g.wait(p); exit.Code != c.want {
				t.Errorf("%v (reaper %v): %+v, want %d", c.sig, reaper, exit, c.want)
			}
			r.Close()
			p.Release()
		}
	}
}

func TestReaper(t *testing.T) {
	g := newRig(t)
	reaper := func(o *CreateOptions) { o.Reaper = true }
	if res := g.sh("test $$ != 1; echo $?; sed -n 's/^Name:.//p' /proc/1/status; exit 3", reaper); res.out != "0\ncaisson-init\n" || res.exit.Code != 3 {
		t.Errorf("got %+v", res)
	}
	// Killed by a signal; orphans are reaped; nothing of ours is left in it.
	if res := g.sh("kill -TERM $$", reaper); res.exit.Code != 143 {
		t.Errorf("got %+v", res)
	}
	if res := g.sh("(sleep 0.01 &); sleep 0.2; ps -o stat | grep -c Z; cd /proc/1/fd 2>/dev/null || echo closed", reaper, func(o *CreateOptions) { o.Spec.Process.User.Username = "alice" }); res.out != "0\nclosed\n" {
		t.Errorf("got %+v", res)
	}
	if res := g.sh("grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/1/status; grep Sig[BI] /proc/self/status", reaper, withSeccomp(true)); res.out != "CapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000004\n" {
		t.Errorf("got %+v", res)
	}
	res := g.run(CreateOptions{Spec: ordinary(busybox(t), "nope"), Reaper: true})
	if f, ok := errors.AsType[*ExecFailure](res.err); !ok || f.Kind != FailureNoCommand {
		t.Errorf("got %+v", res)
	}
}

// running starts a container that waits.
func (g *rig) running(change ...func(*CreateOptions)) *Process {
	g.t.Helper()
	o := CreateOptions{Key: "running", Spec: ordinary(busybox(g.t), "/bin/sleep", "1000")}
	for _, c := range change {
		c(&o)
	}
	p, err := g.r.Create(g.ctx(), o)
	if err == nil {
		err = p.Start(g.ctx())
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

func (g *rig) exec(c *Process, change func(*ExecOptions), args ...string) result {
	g.t.Helper()
	o := ExecOptions{Key: c.Key() + "/x", Container: c, Process: ordinary("/", args...).Process}
	if change != nil {
		change(&o)
	}
	out, done := g.output(&o.Stdout, &o.Stderr)
	p, err := g.r.Exec(g.ctx(), o)
	if err != nil {
		done()
		return result{err: err}
	}
	defer p.Release()
	return g.finish(p, out, done)
}

func TestExec(t *testing.T) {
	g := newRig(t)
	c := g.running(withSeccomp(true))
	if res := g.exec(c, nil, "/bin/sh", "-c", "hostname; readlink /proc/1/exe; cat /proc/1/comm; echo $$ > /tmp/pid; exit 9"); res.out != "box\n/bin/busybox\nsleep\n" || res.exit.Code != 9 {
		t.Errorf("got %+v", res)
	}
	for _, ns := range []string{"pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time"} {
		if res := g.exec(c, nil, "/bin/sh", "-c", fmt.Sprintf("test $(readlink /proc/1/ns/%s) = $(readlink /proc/self/ns/%s)", ns, ns)); res.exit.Code != 0 {
			t.Errorf("%s namespace is another: %+v", ns, res)
		}
	}
	res := g.exec(c, func(o *ExecOptions) {
		o.Process.User.Username = "alice"
		o.Process.Cwd = "/tmp"
		o.Process.NoNewPrivileges = true
		spec := CreateOptions{Spec: &specs.Spec{Process: o.Process, Linux: &specs.Linux{}}}
		withSeccomp(true)(&spec)
		o.Seccomp = spec.Spec.Linux.Seccomp
	}, "/bin/sh", "-c", "id -u; pwd; grep -E 'CapEff|Seccomp:' /proc/self/status; cd /proc/self/fd; echo *")
	if res.out != "1000\n/tmp\nCapEff:\t0000000000000000\nSeccomp:\t2\n0 1 2 3\n" {
		t.Errorf("got %+v", res)
	}
	if res := g.exec(c, nil, "nope"); res.err == nil || res.err.Error() != `exec: "nope": executable file not found in $PATH` {
		t.Errorf("got %+v", res)
	}
	// Execs die with the container.
	p, err := g.r.Exec(g.ctx(), ExecOptions{Key: "running/long", Container: c, Process: ordinary("/", "sleep", "1000").Process})
	if err == nil {
		err = p.Start(g.ctx())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := g.wait(p); exit.Code != 137 {
		t.Errorf("exec: %+v", exit)
	}
	g.wait(c)
	if res := g.exec(c, nil, "true"); res.err == nil {
		t.Error("exec in a dead container")
	}
}

func TestStdin(t *testing.T) {
	g := newRig(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		fmt.Fprint(w, "one\ntwo\n")
		w.Close()
	}()
	res := g.run(CreateOptions{Spec: ordinary(busybox(t), "cat"), Stdin: r})
	if res.out != "one\ntwo\n" || res.exit.Code != 0 {
		t.Errorf("got %+v", res)
	}
	// None given is an empty one.
	if res := g.run(CreateOptions{Spec: ordinary(busybox(t), "cat")}); res.out != "" || res.exit.Code != 0 {
		t.Errorf("got %+v", res)
	}
}

func TestTerminal(t *testing.T) {
	g := newRig(t)
	script := "tty; stty size; test -c /dev/console && echo console; stat -c %u /dev/pts/0; read line; echo read $line; exit 4"
	spec := ordinary(busybox(t), "/bin/sh", "-c", script)
	spec.Process.Terminal = true
	spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
	spec.Process.User.Username = "alice"
	p, err := g.r.Create(g.ctx(), CreateOptions{Key: "tty", Spec: spec})
	if err == nil {
		err = p.Start(g.ctx())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	talk(t, p, "/dev/pts/0\r\n33 77\r\nconsole\r\n1000\r\nword\r\nread word\r\n")
	if exit := g.wait(p); exit.Code != 4 {
		t.Errorf("%+v", exit)
	}
	// And of an exec, with job control.
	c := g.running()
	x := ordinary("/", "/bin/sh", "-c", "tty; read line; echo read $line").Process
	x.Terminal = true
	q, err := g.r.Exec(g.ctx(), ExecOptions{Key: "running/tty", Container: c, Process: x})
	if err == nil {
		err = q.Start(g.ctx())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer q.Release()
	talk(t, q, "/dev/pts/0\r\nword\r\nread word\r\n")
	if exit := g.wait(q); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
	// Control-C reaches the foreground, also under a reaper.
	y := ordinary(busybox(t), "/bin/sh", "-c", "echo up; sleep 1000")
	y.Process.Terminal = true
	z, err := g.r.Create(g.ctx(), CreateOptions{Key: "ctrlc", Spec: y, Reaper: true})
	if err == nil {
		err = z.Start(g.ctx())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer z.Release()
	if line, err := bufio.NewReader(z.Console()).ReadString('\n'); line != "up\r\n" {
		t.Fatalf("%q %v", line, err)
	}
	if _, err := z.Console().Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if exit := g.wait(z); exit.Code != 130 {
		t.Errorf("control-C: %+v", exit)
	}
}

// talk writes a line to a terminal and reads all that comes until its end.
func talk(t *testing.T, p *Process, want string) {
	t.Helper()
	if _, err := p.Console().WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	// The end of a terminal reads as EIO.
	out, err := io.ReadAll(p.Console())
	if err != nil && !strings.Contains(err.Error(), unix.EIO.Error()) {
		t.Error(err)
	}
	// The echo may come anywhere before the answer.
	got := string(out)
	if strings.Replace(got, "word\r\n", "", 1) != strings.Replace(want, "word\r\n", "", 1) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNamespaces runs in the host's namespaces and in another container's.
func TestNamespaces(t *testing.T) {
	g := newRig(t)
	read := func(ns string) string {
		text, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	const script = "for n in pid net ipc uts cgroup time mnt; do readlink /proc/self/ns/$n; done"
	kinds := []string{"pid", "net", "ipc", "uts", "cgroup", "time", "mnt"}
	own := func(res result) map[string]string {
		t.Helper()
		lines := strings.Fields(res.out)
		if len(lines) != len(kinds) {
			t.Fatalf("got %+v: %v", res, res.err)
		}
		m := map[string]string{}
		for i, k := range kinds {
			m[k] = lines[i]
		}
		return m
	}
	got := own(g.sh(script, func(o *CreateOptions) {
		o.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
		o.Spec.Hostname = ""
		o.Spec.Linux.MaskedPaths, o.Spec.Linux.ReadonlyPaths = nil, nil
	}))
	for _, k := range kinds {
		if same := got[k] == read(k); same != (k != "mnt") {
			t.Errorf("host's: %s is the host's: %v", k, same)
		}
	}
	other := g.running()
	path := func(ns string) string { return fmt.Sprintf("/proc/%d/ns/%s", other.PID(), ns) }
	theirs := own(g.exec(other, nil, "/bin/sh", "-c", script))
	got = own(g.sh(script, func(o *CreateOptions) {
		o.Spec.Hostname = ""
		o.Netns = path("net")
		o.Spec.Linux.Namespaces = []specs.LinuxNamespace{
			{Type: specs.MountNamespace}, {Type: specs.PIDNamespace, Path: path("pid")}, {Type: specs.IPCNamespace, Path: path("ipc")},
			{Type: specs.UTSNamespace, Path: path("uts")}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace}, {Type: specs.TimeNamespace},
		}
	}))
	for _, k := range kinds {
		shared := k == "pid" || k == "net" || k == "ipc" || k == "uts"
		if (got[k] == theirs[k]) != shared {
			t.Errorf("joined: %s is %s, theirs is %s", k, got[k], theirs[k])
		}
	}
	// The keeper itself is where it was.
	for _, k := range kinds {
		if keeper, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", g.r.KeeperPID(), k)); err != nil || keeper != read(k) {
			t.Errorf("the keeper's %s namespace is %s, %v", k, keeper, err)
		}
	}
	if kernelAtLeast(6, 3) { // with offsets of its clocks
		res := g.sh("cat /proc/self/timens_offsets; readlink /proc/self/ns/time", func(o *CreateOptions) {
			o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			o.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000}}
		})
		if f := strings.Fields(res.out); len(f) != 7 || f[4] != "1000" || f[6] == read("time") {
			t.Errorf("time offsets: %+v", res)
		}
	}
	if _, err := g.r.Create(g.ctx(), CreateOptions{Key: "bad", Spec: ordinary(busybox(t), "true"), Netns: "/proc/self/ns/uts"}); err == nil {
		t.Error("joined a UTS namespace as a network")
	}
}

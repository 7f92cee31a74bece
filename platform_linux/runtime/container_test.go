//go:build linux

package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	docker "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd/errdefs"
)

// TestInside looks at an ordinary container from within.
func TestInside(t *testing.T) {
	g := newRig(t)
	for _, c := range []struct {
		what, script, want string
		change             func(*CreateOptions)
	}{
		{what: "pid 1", script: "echo $$", want: "1\n"},
		{what: "hostname", script: "hostname", want: "box\n"},
		{what: "root's groups are those of the image", script: "id", want: "uid=0(root) gid=0(root) groups=0(root),10(wheel)\n"},
		{what: "user by name", script: "id; echo $HOME", want: "uid=1000(alice) gid=1001(alice) groups=10(wheel),50(staff),1001(alice)\n/home/alice\n",
			change: func(o *CreateOptions) { o.Spec.Process.User.Username = "alice" }},
		{what: "user and group", script: "id", want: "uid=1000(alice) gid=50(staff) groups=50(staff)\n",
			change: func(o *CreateOptions) { o.Spec.Process.User.Username = "alice:staff" }},
		{what: "user by number", script: "id; echo $HOME", want: "uid=4711 gid=4712 groups=4712\n/\n",
			change: func(o *CreateOptions) { o.Spec.Process.User.Username = "4711:4712" }},
		{what: "group-add", script: "id", want: "uid=1000(alice) gid=1001(alice) groups=10(wheel),50(staff),77,1001(alice)\n",
			change: func(o *CreateOptions) {
				o.Spec.Process.User.Username = "1000:1001"
				o.Spec.Annotations = map[string]string{AnnotationGroupAdd: "wheel,50,77"}
			}},
		{what: "plain OCI user", script: "id", want: "uid=5 gid=6 groups=6,7\n",
			change: func(o *CreateOptions) {
				o.Spec.Process.User = specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}}
			}},
		{what: "capabilities of root", script: "grep Cap /proc/self/status", want: "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n"},
		{what: "capabilities of a user", script: "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status", want: "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\n",
			change: func(o *CreateOptions) { o.Spec.Process.User.Username = "alice" }},
		{what: "ambient capabilities", script: "grep -E 'Cap(Eff|Amb)' /proc/self/status", want: "CapEff:\t0000000000000400\nCapAmb:\t0000000000000400\n",
			change: func(o *CreateOptions) {
				o.Spec.Process.User.Username = "alice"
				one := []string{"CAP_NET_BIND_SERVICE"}
				o.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Permitted: one, Effective: one, Inheritable: one, Ambient: one}
			}},
		{what: "no filter", script: "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status", want: "NoNewPrivs:\t0\nSeccomp:\t0\n"},
		{what: "filter and no_new_privs", script: "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; unshare -U true 2>&1 | sed 's/.*: //'", want: "NoNewPrivs:\t1\nSeccomp:\t2\nOperation not permitted\n", change: withSeccomp(true)},
		{what: "filter without no_new_privs", script: "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status", want: "NoNewPrivs:\t0\nSeccomp:\t2\n", change: withSeccomp(false)},
		{what: "no leaked descriptors", script: "cd /proc/self/fd; echo *", want: "0 1 2 3\n"},
		{what: "masked file", script: "wc -c < /proc/uptime; stat -c %t:%T /proc/uptime", want: "0\n1:3\n",
			change: func(o *CreateOptions) { o.Spec.Linux.MaskedPaths = append(o.Spec.Linux.MaskedPaths, "/proc/uptime") }},
		{what: "masked directory", script: "ls /sys/firmware; touch /sys/firmware/x 2>&1 | grep -c Read-only", want: "1\n"},
		{what: "read-only paths", script: "echo 1 > /proc/sys/vm/drop_caches; echo $?", want: "1\n",
			change: func(o *CreateOptions) { o.Stderr = os.Stderr; o.Stderr, _ = os.Open(os.DevNull) }},
		{what: "devices", script: "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %A %t:%T' $d; done",
			want: "null crw-rw-rw- 1:3\nzero crw-rw-rw- 1:5\nfull crw-rw-rw- 1:7\nrandom crw-rw-rw- 1:8\nurandom crw-rw-rw- 1:9\ntty crw-rw-rw- 5:0\n"},
		{what: "links in /dev", script: "cd /dev; for l in fd stdin stdout stderr core ptmx; do readlink $l; done", want: "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n/proc/kcore\npts/ptmx\n"},
		{what: "extra device", script: "stat -c '%A %t:%T %u:%g' /dev/sub/fuse", want: "crw-r----- a:e5 3:4\n",
			change: func(o *CreateOptions) {
				mode, uid, gid := os.FileMode(0o640), uint32(3), uint32(4)
				o.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/sub/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode, UID: &uid, GID: &gid}}
			}},
		{what: "writable /dev/stdout for a user", script: "echo hi > /dev/stdout", want: "hi\n",
			change: func(o *CreateOptions) { o.Spec.Process.User.Username = "alice" }},
		{what: "read-only root", script: "touch /x 2>&1 | sed 's/.*: //'; touch /dev/x /dev/shm/x && echo ok", want: "Read-only file system\nok\n",
			change: func(o *CreateOptions) { o.Spec.Root.Readonly = true }},
		{what: "working directory is made", script: "pwd", want: "/a/b\n",
			change: func(o *CreateOptions) { o.Spec.Process.Cwd = "/a/b" }},
		{what: "umask", script: "umask", want: "0022\n"},
		{what: "umask of the spec", script: "umask", want: "0077\n",
			change: func(o *CreateOptions) { u := uint32(0o77); o.Spec.Process.User.Umask = &u }},
		{what: "limits", script: "ulimit -n; ulimit -c", want: "512\n0\n",
			change: func(o *CreateOptions) {
				o.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 512, Hard: 600}, {Type: "RLIMIT_CORE"}}
			}},
		{what: "a limit above ours is clamped", script: "test $(ulimit -n) -le 1000000000 && echo ok", want: "ok\n",
			change: func(o *CreateOptions) {
				if ProbeFeatures().SysResource {
					return // then it can be had
				}
				o.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 60, Hard: 1 << 60}}
				low := -900
				o.Spec.Process.OOMScoreAdj = &low
			}},
		{what: "OOM score", script: "cat /proc/self/oom_score_adj", want: "321\n",
			change: func(o *CreateOptions) { score := 321; o.Spec.Process.OOMScoreAdj = &score }},
		{what: "a limit that is not set", script: "ulimit -n", want: "1024\n"},
		{what: "sysctl", script: "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward", want: "5000\n1\n",
			change: func(o *CreateOptions) {
				o.Spec.Linux.Sysctl = map[string]string{"kernel.msgmax": "5000", "net.ipv4.ip_forward": "1"}
			}},
		{what: "signals are as usual", want: "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n",
			change: func(o *CreateOptions) {
				o.Spec.Process.Args = []string{"grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"}
			}},
		{what: "environment", script: "env | grep -v -e SHLVL -e PWD", want: "HOME=/root\nPATH=/bin:/usr/bin\n"},
		{what: "cgroup namespace", script: "grep -c -v ':/$' /proc/self/cgroup", want: "0\n"},
		{what: "nothing of the host is mounted", script: "while read a b c d at rest; do echo $at; done < /proc/self/mountinfo | grep -c -v -E '^/$|^/(dev|proc|sys)'", want: "0\n"},
		{what: "tmpfs with what was there", script: "cat /etc/group | head -1; touch /etc/new && stat -c '%a %U' /etc/passwd", want: "root:x:0:\n644 root\n",
			change: func(o *CreateOptions) {
				o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/etc", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup", "mode=755"}})
			}},
	} {
		t.Run(c.what, func(t *testing.T) {
			g := &rig{t: t, r: g.r, cfg: g.cfg}
			var change []func(*CreateOptions)
			if c.change != nil {
				change = append(change, c.change)
			}
			if res := g.sh(c.script, change...); res.out != c.want {
				t.Errorf("got %q (exit %+v)\nwant %q", res.out, res.exit, c.want)
			}
		})
	}
}

func withSeccomp(nnp bool) func(*CreateOptions) {
	return func(o *CreateOptions) {
		p, err := docker.GetDefaultProfile(o.Spec)
		if err != nil {
			panic(err)
		}
		o.Spec.Linux.Seccomp = p
		o.Spec.Process.NoNewPrivileges = nnp
	}
}

func TestExitCodes(t *testing.T) {
	g := newRig(t)
	for script, want := range map[string]int{"exit 0": 0, "exit 255": 255, "kill -9 $$": 0, "sh -c 'kill -9 $$'; exit $?": 137} {
		if got := g.sh(script).exit.Code; got != want {
			t.Errorf("%s: %d, want %d", script, got, want)
		}
	}
}

func TestNotExecuted(t *testing.T) {
	g := newRig(t)
	root := busybox(t)
	write(t, filepath.Join(root, "etc/data"), "x")
	write(t, filepath.Join(root, "bin/garbage"), "no program")
	if err := os.Chmod(filepath.Join(root, "bin/garbage"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		arg, message string
		kind         FailureKind
	}{
		{"nope", `exec: "nope": executable file not found in $PATH`, FailureNoCommand},
		{"/nope", `exec: "/nope": stat /nope: no such file or directory`, FailureNoCommand},
		{"/etc/data", `exec: "/etc/data": permission denied`, FailureNotExecutable},
		{"/etc", `exec: "/etc": is a directory`, FailureNotExecutable},
		{"garbage", `exec: "garbage": exec format error`, FailureNotExecutable},
		{"", `no command specified`, FailureNoCommand},
	} {
		res := g.run(CreateOptions{Spec: ordinary(root, c.arg)})
		failure, ok := errors.AsType[*ExecFailure](res.err)
		if !ok || failure.Kind != c.kind || failure.Message != c.message {
			t.Errorf("%q: %v (%+v), want %s", c.arg, res.err, failure, c.message)
		}
	}
	// A working directory that cannot be entered.
	o := CreateOptions{Spec: ordinary(root, "true")}
	o.Spec.Process.Cwd = "/etc/data"
	if res := g.run(o); res.err == nil || !strings.Contains(res.err.Error(), "chdir to cwd") {
		t.Errorf("cwd: %v", res.err)
	}
}

func TestRefused(t *testing.T) {
	g := newRig(t)
	for what, c := range map[string]struct {
		change func(*CreateOptions)
		kind   error
	}{
		"hooks":          {func(o *CreateOptions) { o.Spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/x"}}} }, errdefs.ErrNotImplemented},
		"unknown user":   {func(o *CreateOptions) { o.Spec.Process.User.Username = "bob" }, errdefs.ErrInvalidArgument},
		"unknown group":  {func(o *CreateOptions) { o.Spec.Process.User.Username = "alice:nobody" }, errdefs.ErrInvalidArgument},
		"relative cwd":   {func(o *CreateOptions) { o.Spec.Process.Cwd = "x" }, errdefs.ErrInvalidArgument},
		"bad sysctl":     {func(o *CreateOptions) { o.Spec.Linux.Sysctl = map[string]string{"no.such": "1"} }, errdefs.ErrInvalidArgument},
		"sysctl outside": {func(o *CreateOptions) { o.Spec.Linux.Sysctl = map[string]string{"/././self/comm": "1"} }, errdefs.ErrInvalidArgument},
		"missing source": {func(o *CreateOptions) {
			o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such"})
		}, errdefs.ErrInvalidArgument},
		"over a procfs": {func(o *CreateOptions) {
			o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/proc/self", Type: "bind", Source: "/tmp"})
		}, errdefs.ErrInvalidArgument},
		"bad netns": {func(o *CreateOptions) { o.Netns = "/no/such" }, errdefs.ErrInvalidArgument},
		"bad key":   {func(o *CreateOptions) { o.Key = "a b" }, errdefs.ErrInvalidArgument},
	} {
		o := CreateOptions{Key: "x", Spec: ordinary(busybox(t), "true")}
		c.change(&o)
		if p, err := g.r.Create(g.ctx(), o); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", what, err, c.kind)
			if p != nil {
				p.Release()
			}
		}
	}
	p, err := g.r.Create(g.ctx(), CreateOptions{Key: "x", Spec: ordinary(busybox(t), "true")})
	if err != nil {
		t.Fatal("after the failures: ", err)
	}
	if _, err := g.r.Create(g.ctx(), CreateOptions{Key: "x", Spec: ordinary(busybox(t), "true")}); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("a key twice: %v", err)
	}
	if err := p.Start(g.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(g.ctx()); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("started twice: %v", err)
	}
	g.wait(p)
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("signal after the end: %v", err)
	}
}

//go:build linux

package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestHostileRoot runs images that put links in the way of everything that is
// made in them. Nothing may ever be made, read or changed outside.
func TestHostileRoot(t *testing.T) {
	g := newRig(t)
	outside := t.TempDir()
	for _, c := range []struct {
		what    string
		prepare func(root string) // links to put
		change  func(*CreateOptions)
		refused string // part of the error; "" runs
	}{
		{what: "/proc elsewhere", refused: "ordinary directory", prepare: func(root string) { symlink(t, "/tmp", root, "proc") }},
		{what: "/proc outside", refused: "ordinary directory", prepare: func(root string) { symlink(t, outside, root, "proc") }},
		{what: "/sys elsewhere", refused: "ordinary directory", prepare: func(root string) { symlink(t, "../../../../tmp", root, "sys") }},
		{what: "/dev outside", prepare: func(root string) { symlink(t, outside, root, "dev") }},
		{what: "/dev up and out", prepare: func(root string) { symlink(t, strings.Repeat("../", 20)+outside, root, "dev") }},
		{what: "working directory outside", prepare: func(root string) { symlink(t, outside, root, "w") },
			change: func(o *CreateOptions) { o.Spec.Process.Cwd = "/w/made" }},
		{what: "bind target outside", prepare: func(root string) { symlink(t, outside, root, "data") },
			change: func(o *CreateOptions) {
				o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/data/made", Type: "bind", Source: "/bin", Options: []string{"bind", "ro"}})
			}},
		{what: "bind target by a chain of dangling links", prepare: func(root string) {
			symlink(t, "/l2", root, "l1")
			symlink(t, "../../l3", root, "l2")
			symlink(t, outside+"/x", root, "l3")
		}, change: func(o *CreateOptions) {
			o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/l1/y", Type: "bind", Source: "/etc/hostname", Options: []string{"bind"}})
		}},
		{what: "a circle", refused: "too many", prepare: func(root string) { symlink(t, "/loop", root, "loop") },
			change: func(o *CreateOptions) {
				o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/loop/x", Type: "tmpfs", Source: "tmpfs"})
			}},
		{what: "passwd outside", refused: "unable to find user", prepare: func(root string) {
			write(t, filepath.Join(outside, "passwd"), "bob:x:5:5::/:/bin/sh\n")
			os.Remove(filepath.Join(root, "etc/passwd"))
			symlink(t, filepath.Join(outside, "passwd"), root, "etc/passwd")
		}, change: func(o *CreateOptions) { o.Spec.Process.User.Username = "bob" }},
		{what: "masked path by a link", prepare: func(root string) { symlink(t, outside, root, "secret") },
			change: func(o *CreateOptions) {
				o.Spec.Linux.MaskedPaths = append(o.Spec.Linux.MaskedPaths, "/secret", "/secret/x")
				o.Spec.Linux.ReadonlyPaths = append(o.Spec.Linux.ReadonlyPaths, "/secret", "/secret/x")
			}},
		{what: "device by a link", prepare: func(root string) { symlink(t, outside, root, "nodes") },
			change: func(o *CreateOptions) {
				o.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/nodes/null", Type: "c", Major: 1, Minor: 3}}
			}},
		{what: "a working directory in a procfs", refused: "chdir", change: func(o *CreateOptions) { o.Spec.Process.Cwd = "/proc/self/fd/3/.." }},
		{what: "a program in a descriptor", refused: "no such file", change: func(o *CreateOptions) { o.Spec.Process.Args = []string{"/proc/self/fd/4"} }},
		{what: "console by a link", prepare: func(root string) {
			os.MkdirAll(filepath.Join(root, "dev"), 0o755)
			symlink(t, filepath.Join(outside, "console"), root, "dev/console")
		}, change: func(o *CreateOptions) {
			o.Spec.Process.Terminal = true
			// The image's own /dev.
			o.Spec.Mounts = append([]specs.Mount{o.Spec.Mounts[0]}, o.Spec.Mounts[2:]...)
		}},
		{what: "a null device that is none", prepare: func(root string) {
			os.MkdirAll(filepath.Join(root, "dev"), 0o755)
			write(t, filepath.Join(root, "dev/null"), "fake")
		}, change: func(o *CreateOptions) {
			o.Spec.Mounts = append([]specs.Mount{o.Spec.Mounts[0]}, o.Spec.Mounts[2:]...)
			o.Spec.Process.Args = []string{"/bin/sh", "-c", "test -c /dev/null && test ! -s /proc/uptime"}
			o.Spec.Linux.MaskedPaths = []string{"/proc/uptime"}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			root := busybox(t)
			write(t, filepath.Join(outside, "x"), "secret")
			if c.prepare != nil {
				c.prepare(root)
			}
			before := list(t, outside)
			o := CreateOptions{Key: "hostile", Spec: ordinary(root, "true")}
			if c.change != nil {
				c.change(&o)
			}
			res := (&rig{t: t, r: g.r, cfg: g.cfg}).run(o)
			switch {
			case c.refused == "" && (res.err != nil || res.exit.Code != 0):
				t.Errorf("got %+v: %v", res, res.err)
			case c.refused != "" && (res.err == nil || !strings.Contains(res.err.Error(), c.refused)):
				t.Errorf("got %+v, want %q", res, c.refused)
			}
			if after := list(t, outside); after != before {
				t.Errorf("outside was\n%sand is\n%s", before, after)
			}
		})
	}
}

func symlink(t *testing.T, to, root, name string) {
	t.Helper()
	if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintln(&b, path, info.Mode(), info.Size())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestInitUnreachable: a program that is the link to its own executable, as in
// CVE-2019-5736, gets at most a sealed copy, and not even that.
func TestInitUnreachable(t *testing.T) {
	g := newRig(t)
	root := busybox(t)
	symlink(t, "/proc/self/exe", root, "bin/evil")
	before, err := os.ReadFile(g.cfg.InitPath)
	if err != nil {
		t.Fatal(err)
	}
	c := g.running()
	for range 2 {
		res := g.run(CreateOptions{Spec: ordinary(root, "/bin/evil")})
		if res.err == nil && res.exit.Code == 0 {
			t.Errorf("got %+v", res)
		}
	}
	// While others look on from within, each exec passes through.
	watch := `i=0; while test $i -lt 2000; do i=$((i+1)); for p in /proc/[0-9]*; do ls $p/fd/ 2>/dev/null | while read f; do readlink $p/fd/$f; done; readlink $p/exe; (echo x > $p/exe) 2>/dev/null && echo WRITTEN; done; done 2>/dev/null | grep -v -e busybox -e /dev/null -e pipe: -e '^/proc' | head -5`
	done := make(chan result, 1)
	quiet := &rig{t: t, r: g.r, cfg: g.cfg}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for i := range 30 {
			_ = quiet.exec(c, func(o *ExecOptions) { o.Key = fmt.Sprintf("running/e%d", i) }, "true")
		}
		c.Release()
	}()
	done <- quiet.exec(c, nil, "/bin/sh", "-c", watch)
	<-stop
	if res := <-done; strings.Contains(res.out, "WRITTEN") || strings.Contains(res.out, "socket:") {
		t.Errorf("seen from inside: %s", res.out)
	}
	after, err := os.ReadFile(g.cfg.InitPath)
	if err != nil || string(after) != string(before) {
		t.Errorf("caisson-init was changed: %v", err)
	}
}

// TestVolumes are binds in their kinds.
func TestVolumes(t *testing.T) {
	g := newRig(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "content")
	empty := t.TempDir()
	bind := func(dest, source string, options ...string) func(*CreateOptions) {
		return func(o *CreateOptions) {
			o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: dest, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)})
		}
	}
	for _, c := range []struct {
		what, script, want string
		change             func(*CreateOptions)
	}{
		{"directory", "cat /v/file; touch /v/new && echo ok", "contentok\n", bind("/v", dir)},
		{"read-only", "cat /v/file; touch /v/other 2>&1 | sed 's/.*: //'", "contentRead-only file system\n", bind("/v", dir, "ro")},
		{"recursively read-only", "touch /v/other 2>&1 | sed 's/.*: //'", "Read-only file system\n", bind("/v", dir, "rro")},
		{"a file", "cat /etc/deep/f", "content", bind("/etc/deep/f", filepath.Join(dir, "file"))},
		{"filled from the image", "ls /etc; stat -c %a /etc", "group\npasswd\n755\n", bind("/etc", empty, "x-caisson.copyup")},
		{"not filled again", "ls /bin | wc -l", "2\n", func(o *CreateOptions) {
			bind("/bin2", empty, "x-caisson.copyup", "ro")(o)
			o.Spec.Process.Args[2] = "ls /bin2 | wc -l"
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			if res := (&rig{t: t, r: g.r, cfg: g.cfg}).sh(c.script, c.change); res.out != c.want {
				t.Errorf("got %+v, want %q", res, c.want)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(empty, "passwd")); err != nil {
		t.Error(err)
	}
}

// TestPropagation mounts on one side of a volume and looks from the other.
func TestPropagation(t *testing.T) {
	g := newRig(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"in", "out"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	before := mounts(t)
	for mode, c := range map[string]struct{ hostSees, containerSees bool }{
		"rprivate": {false, false}, "rslave": {false, true}, "rshared": {true, true},
	} {
		p := g.running(func(o *CreateOptions) {
			if mode != "rprivate" {
				o.Spec.Linux.RootfsPropagation = mode
			}
			o.Spec.Process.Capabilities.Bounding = append([]string{"CAP_SYS_ADMIN"}, defaultCaps...)
			o.Spec.Process.Capabilities.Effective = o.Spec.Process.Capabilities.Bounding
			o.Spec.Process.Capabilities.Permitted = o.Spec.Process.Capabilities.Bounding
			o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: dir, Options: []string{"rbind", mode}})
		})
		out := filepath.Join(dir, "out")
		if err := unix.Mount("tmpfs", out, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		admin := func(o *ExecOptions) {
			o.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"}
			o.Process.Capabilities.Effective = []string{"CAP_SYS_ADMIN"}
			o.Process.Capabilities.Permitted = []string{"CAP_SYS_ADMIN"}
		}
		res := g.exec(p, admin, "/bin/sh", "-c", "mount -t tmpfs none /v/in; grep -c ' /v/out ' /proc/self/mountinfo")
		if got := res.out == "1\n"; got != c.containerSees {
			t.Errorf("%s: the container sees the host's mount: %v (%+v)", mode, got, res)
		}
		seen := strings.Contains(mounts(t), dir+"/in ")
		if seen != c.hostSees {
			t.Errorf("%s: the host sees the container's mount: %v", mode, seen)
		}
		if seen {
			unix.Unmount(filepath.Join(dir, "in"), unix.MNT_DETACH)
		}
		unix.Unmount(out, unix.MNT_DETACH)
		p.Release()
		if after := mounts(t); after != before {
			t.Errorf("%s: the host's mounts were\n%sand are\n%s", mode, before, after)
		}
	}
}

func mounts(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

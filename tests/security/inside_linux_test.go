package security

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// attack is an image or a command that once broke an engine. The secret is a
// file of the host that no container may see; victim is one that none may
// change.
type attack struct {
	name  string
	files []testimage.File
	run   []string // after "run --rm"; IMAGE is the image, SECRET the host file's path
	want  string   // in the output, if the command may succeed
	never string   // not in the output
}

const secret = "the host's secret"

var attacks = []attack{
	{
		name: "CVE-2024-21626: working directory through a leaked descriptor",
		run:  []string{"IMAGE", "sh", "-c", "for n in 3 4 5 6 7 8 9 10 11 12; do [ -e /proc/self/fd/$n ] && ls -d /proc/self/fd/$n/etc; done; cat /proc/self/fd/*/SECRET /proc/self/fd/*/../../../SECRET; true"},
	},
	{
		name: "CVE-2019-19921: proc is a link in the image", files: []testimage.File{{Name: "elsewhere/", Mode: 0o755}, {Name: "proc", Link: "elsewhere"}},
		run: []string{"IMAGE", "sh", "-c", "cat /proc/self/status | grep -c Seccomp; echo x >/proc/sysrq-trigger"}, never: "wrote",
	},
	{
		name: "sys is a link to the host in the image", files: []testimage.File{{Name: "sys", Link: "../../../../../../.."}},
		run: []string{"IMAGE", "cat", "/sys/SECRET"},
	},
	{
		name: "dev is a link in the image", files: []testimage.File{{Name: "dev", Link: "/../../../../../tmp"}},
		run: []string{"IMAGE", "cat", "/dev/SECRET"},
	},
	{
		name: "etc is a link out of the root", files: []testimage.File{{Name: "run/", Mode: 0o755}, {Name: "run/hosts", Link: "../../../../../../SECRET"}},
		run: []string{"-v", "SECRETDIR/harmless:/run/hosts:ro", "IMAGE", "cat", "/run/hosts"}, want: "harmless",
	},
	{
		name: "CVE-2021-30465: a volume's target is a link out of the root", files: []testimage.File{{Name: "data", Link: "/../../../../../../../../tmp"}},
		run: []string{"-v", "SECRETDIR/harmless:/data/x", "IMAGE", "sh", "-c", "cat /tmp/x; cat /SECRET"}, want: "harmless",
	},
	{
		name: "CVE-2025-31133: /dev/null of the image is a link", files: []testimage.File{{Name: "dev/", Mode: 0o755}, {Name: "dev/null", Link: "/proc/sysrq-trigger"}},
		run: []string{"IMAGE", "sh", "-c", "wc -c </proc/kcore; wc -c </proc/keys; [ -w /proc/sysrq-trigger ] && (echo x >/proc/sysrq-trigger) 2>/dev/null && echo wrote; true"}, never: "wrote",
	},
	{
		name: "CVE-2025-52565: /dev/console of the image is a link", files: []testimage.File{{Name: "dev/", Mode: 0o755}, {Name: "dev/console", Link: "/proc/sys/kernel/core_pattern"}, {Name: "dev/pts/", Mode: 0o755}},
		run: []string{"IMAGE", "sh", "-c", "(echo x >/proc/sys/kernel/core_pattern) 2>/dev/null && echo wrote; true"}, never: "wrote",
	},
	{
		name: "the working directory is a link out of the root", files: []testimage.File{{Name: "w", Link: "/../../../../../../../.."}},
		run: []string{"-w", "/w/proc/../..", "IMAGE", "cat", "./SECRET", "/SECRET"},
	},
	{
		name: "the host's processes and their roots",
		run:  []string{"IMAGE", "sh", "-c", "ls /proc/[0-9]*/root/SECRET /proc/1/cwd/SECRET; cat /proc/1/environ | tr '\\0' '\\n'; ps"}, never: "CAISSON",
	},
	{
		name: "kernel settings",
		run:  []string{"IMAGE", "sh", "-c", "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/kernel/modprobe /sys/kernel/uevent_helper /proc/sys/fs/binfmt_misc/register; do (echo x >$f) 2>/dev/null && echo wrote $f; done; true"}, never: "wrote",
	},
	{
		name: "release_agent of a cgroup v1 (CVE-2022-0492)",
		run:  []string{"IMAGE", "sh", "-c", "mkdir /x; mount -t cgroup -o rdma c /x && echo mounted; unshare -UrmC sh -c 'mount -t cgroup -o memory c /x' 2>/dev/null && echo mounted; (echo x >/sys/fs/cgroup/memory/release_agent) 2>/dev/null && echo wrote; true"}, never: "ed",
	},
	{
		name: "device nodes",
		run:  []string{"IMAGE", "sh", "-c", "mknod /sd b 8 0; mknod /vd b 254 0; mknod /mem c 1 1; for f in /sd /vd /mem; do (head -c 1 $f) 2>/dev/null | grep -q . && echo read $f; done; true"}, never: "read",
	},
}

func TestAttacksInside(t *testing.T) {
	harness.NeedRoot(t)
	e := harness.Start(t)
	dir := t.TempDir()
	name := "caisson-secret-" + filepath.Base(filepath.Dir(dir))
	for file, text := range map[string]string{name: secret, "harmless": "harmless"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	inits := binaries(t)
	replace := strings.NewReplacer("SECRETDIR", dir, "SECRET", strings.TrimPrefix(filepath.Join(dir, name), "/"))
	for i, a := range attacks {
		harness.Run(t, a.name, func(t *testing.T) {
			image := "attack" + string(rune('a'+i))
			for j, f := range a.files {
				a.files[j].Link = replace.Replace(f.Link)
			}
			archive := testimage.Busybox(t, testimage.Config{Ref: image + ":latest"}, a.files...)
			if r := e.Caisson("load", "-i", archive); r.Code != 0 {
				t.Logf("refused when it is loaded: %s", r.Stderr)
				return
			}
			args := []string{"run", "--rm", "--network", "none"}
			for _, arg := range a.run {
				args = append(args, strings.ReplaceAll(replace.Replace(arg), "IMAGE", image))
			}
			r := e.Caisson(args...)
			all := r.Stdout + r.Stderr
			if strings.Contains(all, secret) {
				t.Errorf("a file of the host was read: %v", r)
			}
			if a.never != "" && strings.Contains(r.Stdout, a.never) {
				t.Errorf("output has %q: %v", a.never, r)
			}
			// Refusing to start such an image is fine, too.
			if a.want != "" && r.Code != 125 && !strings.Contains(r.Stdout, a.want) {
				t.Errorf("output lacks %q: %v", a.want, r)
			}
		})
	}
	for path, sum := range binaries(t) {
		if inits[path] != sum {
			t.Errorf("%s was changed by a container", path)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(text) != secret {
		t.Errorf("the host's secret is now %q, error %v", text, err)
	}
}

// binaries are the checksums of what we install.
func binaries(t *testing.T) map[string][32]byte {
	t.Helper()
	sums := map[string][32]byte{}
	files, err := filepath.Glob(filepath.Join(harness.Bin(t), "caisson*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		sums[f] = sha256.Sum256(data)
	}
	return sums
}

// CVE-2019-5736: a program that is /proc/self/exe runs us again, from a file that
// it must be able neither to write nor to find.
func TestOwnBinaryInside(t *testing.T) {
	harness.NeedRoot(t)
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{Ref: "again:latest"},
		testimage.File{Name: "bin/again", Link: "/proc/self/exe"},
		testimage.File{Name: "bin/script", Mode: 0o755, Data: "#!/proc/self/exe\n"}))
	before := binaries(t)
	for _, program := range []string{"/bin/again", "/bin/script", "/proc/self/exe"} {
		if r := e.Caisson("run", "--rm", "--network", "none", "again", program, "sh", "-c", "echo escaped"); strings.Contains(r.Stdout, "escaped") {
			t.Errorf("%s: %v", program, r)
		}
	}
	e.Must("run", "-d", "--name", "cc", "--network", "none", "again", "sh", "-c", `
while :; do
	for p in /proc/[0-9]*; do
		[ -e $p/exe ] && exec 9>>$p/exe && echo opened $p/exe $(readlink $p/exe)
	done
done 2>/dev/null`)
	for range 10 {
		e.Caisson("exec", "cc", "true")
		e.Caisson("exec", "cc", "/proc/self/exe")
	}
	// busybox's own file belongs to the container: it may be opened, though not
	// while it runs (ETXTBSY).
	for line := range strings.Lines(e.Must("logs", "cc")) {
		if !strings.Contains(line, "busybox") {
			t.Errorf("opened for writing: %s", line)
		}
	}
	e.Must("rm", "-f", "cc")
	for path, sum := range binaries(t) {
		if before[path] != sum {
			t.Errorf("%s was changed by a container", path)
		}
	}
}

// No descriptor of ours, and no variable, reaches a container's programs.
func TestNothingLeaksInside(t *testing.T) {
	harness.NeedRoot(t)
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	e.Must("run", "-d", "--name", "cc", "--network", "none", "busybox", "sleep", "1000000")
	defer e.Must("rm", "-f", "cc")
	const look = `for p in 1 self; do for f in /proc/$p/fd/*; do echo "$f $(readlink $f)"; done; done; env; id -G`
	for _, args := range [][]string{{"run", "--rm", "--network", "none", "busybox"}, {"exec", "cc"}} {
		out := e.Must(append(args, "sh", "-c", look)...)
		for line := range strings.Lines(out) {
			line = strings.TrimSpace(line)
			file, target, isFile := strings.Cut(line, " ")
			if isFile && strings.HasPrefix(file, "/proc/") && target != "" {
				ok := strings.HasPrefix(target, "/dev/") || strings.HasPrefix(target, "pipe:") || strings.HasPrefix(target, "/proc/")
				// A descriptor that is a FIFO of ours shows its path, which leads nowhere inside.
				if n := filepath.Base(file); !ok && n != "0" && n != "1" && n != "2" {
					t.Errorf("%v has descriptor %s", args, line)
				}
			}
			if strings.HasPrefix(line, "CAISSON") || strings.HasPrefix(line, "NOTIFY") || strings.HasPrefix(line, "PLUGIN") {
				t.Errorf("%v has variable %s", args, line)
			}
		}
	}
}

// What a container leaves behind for `cp` must not lead out of it (CVE-2018-15664).
func TestCopyInside(t *testing.T) {
	harness.NeedRoot(t)
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	e.Must("run", "-d", "--name", "cc", "--network", "none", "busybox", "sh", "-c",
		"ln -s / /root-link; ln -s /../../../../../../../.. /up; ln -s "+path+" /direct; sleep 1000000")
	defer e.Must("rm", "-f", "cc")
	e.Until("the links are there", func() bool { return e.Caisson("exec", "cc", "test", "-L", "/direct").Code == 0 })
	for _, from := range []string{"/root-link" + path, "/up" + path, "/direct", "/proc/1/root" + path, "/../../.." + path} {
		out := filepath.Join(t.TempDir(), "out")
		e.Caisson("cp", "-L", "cc:"+from, out)
		if data, err := os.ReadFile(out); err == nil && string(data) == secret {
			t.Errorf("cp cc:%s read the host's file", from)
		}
	}
	mine := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(mine, []byte("overwritten"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"/root-link" + path, "/up" + path, "/direct", "/up" + dir} {
		e.Caisson("cp", mine, "cc:"+to)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != secret {
		t.Errorf("cp wrote to the host's file: %q, error %v", data, err)
	}
}

package security

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// escape is a way that once led out of another engine's containers or further
// into them, as a command of ours. IMAGE is the image, HOSTDIR a directory of the
// host that the container was not given.
type escape struct {
	cve     string
	tried   string
	config  testimage.Config
	files   []testimage.File
	run     []string // after "run --rm"
	refused string   // the message if it must not even start; otherwise it may
	want    string   // the whole output if it starts, "" for any
	never   string   // in the output

	// atVM is the message at the vm level, where it must not start for another reason:
	// there the host has nothing that could be asked for.
	atVM string
}

const uidOfNobody = 65534

var escapes = []escape{
	{
		cve: "CVE-2014-9357", tried: "a file of the image behind a link to the host",
		files: []testimage.File{{Name: "out", Link: "/../../../../../../../HOSTDIR"}, {Name: "out/planted", Mode: 0o644, Data: "x"}},
		run:   []string{"IMAGE", "true"},
	},
	{
		cve: "CVE-2019-16884", tried: "a volume over /proc, so that security attributes are written to a file",
		run: []string{"-v", "HOSTDIR:/proc", "IMAGE", "true"}, refused: "/proc",
	},
	{
		cve: "CVE-2019-16884", tried: "the same by the image's VOLUME", config: testimage.Config{Volumes: []string{"/proc"}},
		run: []string{"IMAGE", "true"}, refused: "/proc",
	},
	{
		cve: "CVE-2025-52881", tried: "a tmpfs over /proc, so that writes to it are redirected",
		run: []string{"--tmpfs", "/proc", "IMAGE", "true"}, refused: "/proc",
	},
	{
		cve: "CVE-2020-13401", tried: "router advertisements from another container change the routes",
		run: []string{"IMAGE", "sh", "-c", "cat /proc/sys/net/ipv6/conf/eth0/accept_ra"}, want: "0",
	},
	{
		cve: "CVE-2020-15257", tried: "an abstract socket of the engine in the host's network",
		run: []string{"--network", "host", "IMAGE", "sh", "-c", "grep -ci '@.*caisson' /proc/net/unix"}, want: "0",
		atVM: "cannot have the host's network",
	},
	{
		cve: "CVE-2021-43784", tried: "a mount option that is too long for a length field",
		run: []string{"--tmpfs", "/x:" + strings.Repeat("A", 5000), "IMAGE", "true"}, refused: "AAA",
	},
	{
		cve: "CVE-2022-0811", tried: "a sysctl of the whole host",
		run: []string{"--sysctl", "kernel.core_pattern=|/x", "IMAGE", "true"}, refused: "kernel.core_pattern",
	},
	{
		cve: "CVE-2022-0811", tried: "the same hidden in the value of an allowed one",
		run:   []string{"--sysctl", "kernel.shm_rmid_forced=1+kernel.core_pattern=|/x", "IMAGE", "cat", "/proc/sys/kernel/core_pattern"},
		never: "|/x",
	},
	{
		cve: "CVE-2022-0811", tried: "a sysctl named by a path",
		run: []string{"--sysctl", "net/../kernel/core_pattern=|/x", "IMAGE", "true"}, refused: "net/../kernel/core_pattern",
	},
	{
		cve: "CVE-2022-23648", tried: "a volume is filled from a link to the host", config: testimage.Config{Volumes: []string{"/vol"}},
		files: []testimage.File{{Name: "vol", Link: "/../../../../../../../HOSTDIR"}},
		run:   []string{"IMAGE", "sh", "-c", "ls /vol/ 2>/dev/null; cat /vol/secret /HOSTDIR/secret; true"},
	},
	{
		cve: "CVE-2022-24769", tried: "inheritable capabilities",
		run: []string{"IMAGE", "sh", "-c", "grep CapInh /proc/self/status | cut -f2"}, want: "0000000000000000",
	},
	{
		cve: "CVE-2022-36109", tried: "a supplementary group left from root",
		run: []string{"--user", "1234", "IMAGE", "id", "-G"}, want: "0", // the primary group of an unknown user, as Docker has it
	},
	{
		cve: "CVE-2022-36109", tried: "the same with a group",
		run: []string{"--user", "1234:1234", "IMAGE", "id", "-G"}, want: "1234",
	},
	{
		cve: "CVE-2024-40635", tried: "a user id that overflows to root",
		run: []string{"--user", "4294967296:4294967296", "IMAGE", "id", "-u"}, refused: "4294967296",
	},
	{
		cve: "CVE-2024-40635", tried: "the same in the image's config", config: testimage.Config{User: "2147483648"},
		run: []string{"IMAGE", "id", "-u"}, refused: "2147483648",
	},
	{
		cve: "CVE-2024-45310", tried: "a directory is made on the host for a mount behind a link",
		files: []testimage.File{{Name: "data", Link: "/../../../../../../../HOSTDIR"}},
		run:   []string{"--tmpfs", "/data/planted", "IMAGE", "true"},
	},
	{
		cve: "CVE-2024-45310", tried: "the same with a file",
		files: []testimage.File{{Name: "data", Link: "/proc/self/root/../../../HOSTDIR"}},
		run:   []string{"-v", "/etc/hostname:/data/planted", "IMAGE", "true"},
	},
	{
		cve: "CVE-2023-28642", tried: "/proc of the image is a link back to it",
		files: []testimage.File{{Name: "proc", Link: "."}},
		run:   []string{"IMAGE", "sh", "-c", "cat /proc/self/status /status 2>/dev/null | grep -c Seccomp:.2; true"}, never: "Seccomp:\t0",
	},
}

// TestEscapes tries known ways out, by number. Nothing of the host is read,
// made or changed, whether the engine refuses or runs what it is given.
func TestEscapes(t *testing.T) {
	harness.NeedRoot(t)
	e := harness.Start(t)
	for i, x := range escapes {
		if harness.Level() == "vm" && x.atVM != "" {
			x.refused = x.atVM
		}
		harness.Run(t, x.cve+": "+x.tried, func(t *testing.T) {
			host := t.TempDir()
			if err := os.WriteFile(filepath.Join(host, "secret"), []byte(secret), 0o644); err != nil {
				t.Fatal(err)
			}
			before := list(t, host)
			place := func(s string) string {
				return strings.ReplaceAll(strings.ReplaceAll(s, "/HOSTDIR", host), "HOSTDIR", host)
			}
			files := make([]testimage.File, len(x.files))
			for j, f := range x.files {
				files[j] = f
				files[j].Link = place(f.Link)
			}
			image := "escape" + string(rune('a'+i))
			x.config.Ref = image + ":latest"
			archive := testimage.Busybox(t, x.config, files...)
			if r := e.Caisson("load", "-i", archive); r.Code != 0 {
				t.Logf("refused when it is loaded: %s", r.Stderr)
			} else {
				args := []string{"run", "--rm"}
				for _, arg := range x.run {
					args = append(args, strings.ReplaceAll(place(arg), "IMAGE", image))
				}
				r := e.Caisson(args...)
				switch out := strings.TrimSpace(r.Stdout); {
				case strings.Contains(r.Stdout+r.Stderr, secret):
					t.Errorf("a file of the host was read: %v", r)
				case x.refused != "" && (r.Code != 125 && r.Code != 126 || !strings.Contains(r.Stderr, x.refused)):
					t.Errorf("must be refused with a message that names %q: %v", x.refused, r)
				case x.refused == "" && x.want != "" && out != x.want:
					t.Errorf("output is not %q: %v", x.want, r)
				case x.never != "" && strings.Contains(r.Stdout, x.never):
					t.Errorf("output has %q: %v", x.never, r)
				}
			}
			if after := list(t, host); after != before {
				t.Errorf("the host's directory was changed:\nbefore %s\nafter %s", before, after)
			}
		})
	}
}

// list is a directory's content: names, modes and sizes.
func list(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(strings.Join([]string{path, fi.Mode().String(), fi.ModTime().String()}, " ") + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Exec gives no more than the container has: neither inheritable capabilities
// (CVE-2022-29162) nor groups of root (CVE-2023-25173).
func TestExecGivesNoMore(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	e.Must("run", "-d", "--name", "cc", "--user", "1000:1000", "busybox", "sleep", "1000000")
	for _, c := range []struct{ args, want string }{
		{"exec cc grep CapInh /proc/self/status", "CapInh:\t0000000000000000"},
		{"exec cc grep CapEff /proc/self/status", "CapEff:\t0000000000000000"},
		{"exec --privileged cc grep CapInh /proc/self/status", "CapInh:\t0000000000000000"},
		{"exec cc id -G", "1000"},
		{"exec --user 2000:3000 cc id -G", "3000"},
		{"exec cc grep Seccomp: /proc/self/status", "Seccomp:\t2"},
	} {
		if got := e.Must(strings.Fields(c.args)...); got != c.want {
			t.Errorf("%s: got %q, want %q", c.args, got, c.want)
		}
	}
}

// Other users of the host cannot reach what is in containers and images: not a
// set-user-id program that a container made, not a blob (CVE-2021-41091,
// CVE-2021-41103, CVE-2024-25621).
func TestRootsAreClosed(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	e.Must("run", "-d", "--name", "cc", "busybox", "sh", "-c", "cp /bin/busybox /planted; chmod 4755 /planted; sleep 1000000")
	e.Until("the file is there", func() bool { return e.Caisson("exec", "cc", "test", "-u", "/planted").Code == 0 })
	found := 0
	for _, root := range []string{e.DataRoot, e.ExecRoot} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if d.Name() == "planted" || strings.Contains(path, "/blobs/") && d.Type().IsRegular() {
				found++
				if readableByNobody(path) {
					t.Errorf("any user of the host can read %s", strings.TrimPrefix(path, root))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 2 {
		t.Errorf("only %d files were found to look at", found)
	}
}

func readableByNobody(path string) bool {
	cmd := exec.Command("cat", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uidOfNobody, Gid: uidOfNobody}}
	return cmd.Run() == nil
}

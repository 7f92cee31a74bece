package interop

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
)

// follow starts a client that streams, and returns its lines and what ends it.
func follow(t *testing.T, cmd *exec.Cmd) (lines func() string, end func()) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	in := bufio.NewScanner(out)
	lines = func() string {
		t.Helper()
		if !in.Scan() {
			t.Fatalf("%s: the stream ended: %v", strings.Join(cmd.Args, " "), in.Err())
		}
		return in.Text()
	}
	return lines, func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_, _ = out.Close(), cmd.Wait()
		late.Stop()
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	e := busybox(t)
	each(t, e, func(t *testing.T, c client) {
		name := "stream-" + c.name
		since := strconv.FormatInt(time.Now().Unix()-1, 10)
		c.must(t, "run", "-d", "-i", "--name", name, "--network", "none", "-m", "64m", "busybox", "sh", "-c", "mkfifo /in; exec 3<>/in; while read -r l <&3; do echo \"got $l\"; done")
		defer c.run(t, "rm", "-f", name)

		harness.Run(t, "logs", func(t *testing.T) {
			lines, end := follow(t, c.command("logs", "-f", name))
			defer end()
			for i := range 5 {
				c.must(t, "exec", name, "sh", "-c", fmt.Sprintf("until [ -p /in ]; do :; done; echo %d >/in", i))
				if got, want := lines(), fmt.Sprintf("got %d", i); got != want {
					t.Fatalf("line %q, should be %q", got, want)
				}
			}
			c.want(t, `^got 3\ngot 4$`, "logs", "--tail", "2", name)
		})
		harness.Run(t, "stats", func(t *testing.T) {
			lines, end := follow(t, c.command("stats", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", name))
			defer end()
			for seen := 0; seen < 3; {
				if line := lines(); strings.Contains(line, name) && strings.Contains(line, "/ 64MiB") {
					seen++
				}
			}
		})
		harness.Run(t, "events", func(t *testing.T) {
			lines, end := follow(t, c.command("events", "--since", since, "--filter", "container="+name, "--filter", "type=container", "--format", "{{json .}}"))
			defer end()
			c.must(t, "pause", name)
			c.must(t, "unpause", name)
			c.must(t, "rename", name, name+"2")
			c.must(t, "rename", name+"2", name)
			c.must(t, "kill", "-s", "KILL", name)
			want := []string{"create", "start", "pause", "unpause", "rename", "kill", "die"}
			for len(want) > 0 {
				var m struct {
					Type, Action string
					Actor        struct{ Attributes map[string]string }
				}
				line := lines()
				if err := json.Unmarshal([]byte(line), &m); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				if m.Action == want[0] {
					want = want[1:]
				} else if slices.Contains(want[1:], m.Action) {
					t.Fatalf("%s before %s", m.Action, want[0])
				}
				if m.Action == "die" && m.Actor.Attributes["exitCode"] != "137" {
					t.Errorf("die says %v", m.Actor.Attributes)
				}
			}
		})
		harness.Run(t, "logs end with the container", func(t *testing.T) {
			c.want(t, `got 4$`, "logs", "-f", name)
		})
	})
}

// tree makes a directory with what cp must keep.
func tree(t *testing.T, dir string) {
	t.Helper()
	steps := []error{
		os.MkdirAll(filepath.Join(dir, "a/empty dir"), 0o750),
		os.WriteFile(filepath.Join(dir, "a/päth with space"), []byte("text"), 0o640),
		os.WriteFile(filepath.Join(dir, "a/large"), make([]byte, 3<<20), 0o600),
		os.WriteFile(filepath.Join(dir, "a/program"), []byte("#!/bin/sh\n"), 0o755),
		os.Symlink("program", filepath.Join(dir, "a/link")),
		os.Symlink("/no/where", filepath.Join(dir, "a/dangling")),
		os.Link(filepath.Join(dir, "a/program"), filepath.Join(dir, "a/hard")),
		os.Chmod(filepath.Join(dir, "a/program"), 0o4755),
		os.Chtimes(filepath.Join(dir, "a/large"), time.Unix(1e9, 0), time.Unix(1e9, 0)),
	}
	for _, err := range steps {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// listing describes a tree: names, modes, sizes, times, links.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fmt.Fprintf(&b, "%s %v", rel, fi.Mode())
		switch {
		case fi.Mode().IsRegular():
			fmt.Fprintf(&b, " %d %d", fi.Size(), fi.ModTime().Unix())
		case fi.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			b.WriteString(" -> " + to)
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Trees go into running and stopped containers and come back the same.
func TestCopyTrees(t *testing.T) {
	t.Parallel()
	e := busybox(t)
	from := t.TempDir()
	tree(t, from)
	want := listing(t, filepath.Join(from, "a"))
	each(t, e, func(t *testing.T, c client) {
		for _, verb := range []string{"create", "run -d"} {
			name := "cp-" + c.name
			c.must(t, append(strings.Fields(verb), "--name", name, "--network", "none", "busybox", "sleep", "1000")...)
			to := t.TempDir()
			c.must(t, "cp", filepath.Join(from, "a"), name+":/new")
			c.must(t, "cp", name+":/new", filepath.Join(to, "back"))
			if got := listing(t, filepath.Join(to, "back")); got != want {
				t.Errorf("%s: came back as\n%s\nwent as\n%s", verb, got, want)
			}
			c.must(t, "cp", filepath.Join(from, "a")+"/.", name+":/tmp")
			c.must(t, "cp", name+":/tmp/link", filepath.Join(to, "link"))
			if l, err := os.Readlink(filepath.Join(to, "link")); l != "program" {
				t.Errorf("a link came as %q, %v", l, err)
			}
			c.must(t, "cp", "-L", name+":/tmp/link", filepath.Join(to, "followed"))
			if fi, err := os.Lstat(filepath.Join(to, "followed")); err != nil || !fi.Mode().IsRegular() {
				t.Errorf("a followed link came as %v, %v", fi, err)
			}
			c.must(t, "cp", "-a", filepath.Join(from, "a/päth with space"), name+":/tmp/renamed")
			c.must(t, "cp", name+":/tmp/renamed", filepath.Join(to, "renamed"))
			pack := exec.Command("tar", "-C", from, "-cf", "-", "a")
			in := c.command("cp", "-", name+":/root")
			in.Stdin, _ = pack.StdoutPipe()
			if err := pack.Start(); err != nil {
				t.Fatal(err)
			}
			if out, err := in.CombinedOutput(); err != nil {
				t.Errorf("cp -: %s", out)
			}
			_ = pack.Wait()
			unpack := exec.Command("sh", "-c", `"$@" | tar -x -C "$0"`, to)
			unpack.Args = append(unpack.Args, c.command("cp", name+":/root/a", "-").Args...)
			if out, err := unpack.CombinedOutput(); err != nil {
				t.Errorf("cp to -: %s", out)
			}
			if got := listing(t, filepath.Join(to, "a")); got != want {
				t.Errorf("%s: through tar it came back as\n%s\nwent as\n%s", verb, got, want)
			}
			c.refused(t, `[Nn]o such container`, "cp", from, "nobody:/x")
			c.refused(t, `(?i)could not find|no such`, "cp", name+":/nothing", to)
			c.must(t, "rm", "-f", name)
		}
	})
}

// What people read to know their engine.
func TestInformation(t *testing.T) {
	t.Parallel()
	e := busybox(t)
	each(t, e, func(t *testing.T, c client) {
		name := "info-" + c.name
		c.must(t, "run", "-d", "--name", name, "--network", "none", "busybox", "sh", "-c", "head -c 3000000 /dev/zero >/big; sleep 1000")
		defer c.run(t, "rm", "-f", name)
		for field, want := range map[string]string{
			"{{.ServerVersion}} {{.ID}}":                 `^\S+ \S+$`,
			"{{.OSType}} {{.Architecture}} {{.NCPU}}":    `^linux (x86_64|aarch64) [1-9]\d*$`,
			"{{.Driver}} {{.LoggingDriver}}":             `^overlay\S* json-file$`,
			"{{.CgroupDriver}} {{.CgroupVersion}}":       `^cgroupfs [12]$`,
			"{{.ContainersRunning}}/{{.Containers}}":     `^1/1$`,
			"{{.Images}}":                                `^[1-9]`,
			"{{.DockerRootDir}}":                         "^" + e.DataRoot + "$",
			"{{.KernelVersion}} {{.OperatingSystem}}":    `^\d+\.\d+.* .`,
			"{{json .SecurityOptions}}":                  `seccomp`,
			"{{json .Runtimes}} {{.DefaultRuntime}}":     `process`,
			"{{.MemTotal}} {{.MemoryLimit}}":             `^\d{8,} true$`,
			"{{.Isolation}}|{{.LiveRestoreEnabled}}":     `\|true$`,
			"{{json .Plugins.Network}} {{.SystemTime}}":  `bridge.*20\d\d-`,
			"{{.HTTPProxy}}{{.Name}} {{len .Warnings}}|": ` \d+\|$`,
		} {
			c.want(t, want, "info", "--format", field)
		}
		c.want(t, `(?s)Server.*Containers: 1.*Running: 1.*Storage Driver: overlay.*Kernel Version`, "info")
		c.want(t, `(?s)Client.*Server.*(API|Min)`, "version")
		c.want(t, `(?s)Images\s+1.*Containers\s+1\s+1\s+`, "system", "df")
		c.want(t, `(?s)busybox\s+latest.*`+name, "system", "df", "-v")
		e.Until("the container has written", func() bool {
			return regexp.MustCompile(`^3(\.\d+)?MB \(virtual \d`).MatchString(c.run(t, "ps", "-s", "--format", "{{.Size}}").Stdout)
		})
		c.want(t, `sleep 1000`, "top", name)
		c.want(t, `(?m)^A /big$`, "diff", name)
	})
}

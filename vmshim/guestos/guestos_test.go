package guestos

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func programs(t *testing.T) Programs {
	t.Helper()
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return Programs{
		Init: put("agent", "the agent"), Bin: []string{put("tool", "a tool, with an odd length")},
		Module: []string{put("b.ko", "b"), put("a.ko", "a")},
	}
}

// The same parts give the same bytes, whatever their times and modes are.
func TestInitramfsIsReproducible(t *testing.T) {
	p := programs(t)
	out := filepath.Join(t.TempDir(), "initrd")
	var first []byte
	for i := range 2 {
		if err := Initramfs(out, p); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = data
			when := time.Unix(1, 0)
			if err := os.Chtimes(p.Init, when, when); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(p.Init, 0o755); err != nil {
				t.Fatal(err)
			}
		} else if !bytes.Equal(first, data) {
			t.Error("the second differs")
		}
	}
	if st, err := os.Stat(out); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v: a monitor with a uid of its own must read it", st.Mode(), err)
	}
}

// Another implementation reads what we write.
func TestCPIO(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed")
	}
	out := filepath.Join(t.TempDir(), "initrd")
	if err := Initramfs(out, programs(t)); err != nil {
		t.Fatal(err)
	}
	run := func(dir string, args ...string) string {
		in, err := os.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		cmd := exec.Command("cpio", args...)
		cmd.Dir, cmd.Stdin = dir, in
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("cpio: %v\n%s", err, text)
		}
		return string(text)
	}
	list := run("/", "-itv", "--quiet")
	for _, want := range []string{"init\n", "bin/tool\n", "lib/modules/b.ko\n", "dev/console\n", "dev/null\n", "crw-rw-rw-", "-rwxr-xr-x"} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q in\n%s", want, list)
		}
	}
	dir := t.TempDir()
	run(dir, "-idm", "--quiet", "init", "bin/tool", "lib/modules/load")
	for name, want := range map[string]string{"init": "the agent", "bin/tool": "a tool, with an odd length", "lib/modules/load": "b.ko\na.ko\n"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

func TestInitramfsOfNothing(t *testing.T) {
	dir := t.TempDir()
	if err := Initramfs(filepath.Join(dir, "initrd"), Programs{Init: filepath.Join(dir, "nonesuch")}); err == nil {
		t.Error("made without an init")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

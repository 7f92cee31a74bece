package restart

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// mounted is what of an engine's volumes is mounted on the host.
func mounted(t *testing.T, e *harness.Engine) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, e.DataRoot) || strings.HasPrefix(at, e.ExecRoot) {
			out = append(out, at)
		}
	}
	return out
}

// What is mounted on the host for containers outlives the engine, is given back
// when they end although another engine mounted it, and is never deleted.
func TestMountsOutliveTheEngine(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	theirs := t.TempDir()
	if err := os.WriteFile(filepath.Join(theirs, "file"), []byte("theirs\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	e.Must("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "memory")
	e.Must("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device="+theirs, "bound")
	e.Must("run", "--rm", "-v", "whole:/w", "busybox", "sh", "-c", "mkdir /w/part; echo part >/w/part/file")
	run := func(name string) {
		e.Must("run", "-d", "--name", name, "-v", "memory:/m", "-v", "bound:/b",
			"--mount", "type=volume,src=whole,dst=/p,volume-subpath=part", "--mount", "type=image,src=busybox,dst=/i", "busybox", "sleep", "1000")
	}
	run("one")
	e.Must("exec", "one", "sh", "-c", "echo shared >/m/file")
	if got := len(mounted(t, e)); got != 4 {
		t.Errorf("mounted: %v", mounted(t, e))
	}
	if st, err := os.Stat(filepath.Join(e.ExecRoot, "mounts")); err != nil || st.Mode().Perm() != 0o710 {
		t.Errorf("users of the host can look into what containers have: %v %v", st, err)
	}
	e.Kill("caissond")
	e.WaitReady()
	run("two")
	if got := e.Must("exec", "two", "sh", "-c", "cat /m/file /b/file /p/file; ls /i/bin/busybox"); got != "shared\ntheirs\npart\n/i/bin/busybox" {
		t.Errorf("%q", got)
	}
	e.Must("rm", "-f", "one")
	if got := e.Must("exec", "two", "cat", "/m/file"); got != "shared" {
		t.Errorf("%q", got)
	}
	for _, v := range []string{"memory", "bound", "whole"} {
		if r := e.Caisson("volume", "rm", v); r.Code == 0 || !strings.Contains(r.Stderr, "volume is in use") {
			t.Errorf("%s", r)
		}
	}
	e.Kill("caisson-backend-linux")
	e.Must("rm", "-f", "two")
	if left := mounted(t, e); len(left) > 0 {
		t.Errorf("still mounted: %v", left)
	}
	e.Must("volume", "rm", "memory", "bound", "whole")
	if b, err := os.ReadFile(filepath.Join(theirs, "file")); err != nil || string(b) != "theirs\n" {
		t.Errorf("what a volume was a mount of: %q %v", b, err)
	}
}

// A directory that an engine without records has made is a volume.
func TestVolumesWithoutRecords(t *testing.T) {
	e := harness.Start(t)
	dir := filepath.Join(e.DataRoot, "volumes", "old", "_data")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	e.Stop()
	e.Boot()
	e.Until("it is taken in", func() bool { return e.Caisson("volume", "ls", "-q").Stdout == "old\n" })
	e.Must("volume", "rm", "old")
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Error("it is still there")
	}
}

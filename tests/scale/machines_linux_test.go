package scale

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// 100 idle virtual machines at once, each with a container that answers.
func TestManyMachines(t *testing.T) {
	if os.Getenv("CAISSON_SOAK") == "" {
		t.Skip("takes minutes and gigabytes: make soak runs it")
	}
	harness.Need(t, "qemu-system-x86_64", "mkfs.erofs", "mkfs.ext4")
	if _, err := os.Stat(filepath.Join(harness.Bin(t), "guest/vmlinux")); err != nil {
		t.Skip("needs a guest (make guest builds it)")
	}
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	const n = 100
	before := available(t)
	parallel(n, func(i int) {
		if r := e.Caisson("run", "-d", "--name", fmt.Sprint("vm", i), "--isolation", "vm", "busybox", "sleep", "100000"); r.Code != 0 {
			t.Errorf("machine %d: %v", i, r)
		}
	})
	if got := len(strings.Fields(e.Must("ps", "-q"))); got != n {
		t.Fatalf("%d containers run, want %d", got, n)
	}
	t.Logf("%d machines took %d MiB of the host's memory each", n, (before-available(t))/n>>10)
	parallel(n, func(i int) {
		name := fmt.Sprint("vm", i)
		r := e.Caisson("exec", name, "hostname")
		if id := e.Must("inspect", "-f", "{{.Id}}", name); r.Code != 0 || !strings.HasPrefix(id, strings.TrimSpace(r.Stdout)) {
			t.Errorf("machine %d: %v", i, r)
		}
	})
	parallel(n, func(i int) {
		if r := e.Caisson("rm", "-f", fmt.Sprint("vm", i)); r.Code != 0 {
			t.Errorf("remove %d: %v", i, r)
		}
	})
}

// available is the host's free memory in KiB.
func available(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib
		}
	}
	t.Fatal("/proc/meminfo has no MemAvailable")
	return 0
}

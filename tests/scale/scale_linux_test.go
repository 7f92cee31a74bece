package scale

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// scaled is a count of the soak run, or its brief form for every day.
func scaled(brief, soak int) int {
	if os.Getenv("CAISSON_SOAK") != "" {
		return soak
	}
	return brief
}

// parallel runs f(0) … f(n-1), eight at a time.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// 200 idle containers at once, some of which answer an exec. What they leave on
// the host the harness looks for in the end.
func TestManyIdle(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	const n = 200
	parallel(n, func(i int) {
		if r := e.Caisson("run", "-d", "--name", fmt.Sprint("idle", i), "busybox", "sleep", "100000"); r.Code != 0 {
			t.Errorf("container %d: %v", i, r)
		}
	})
	if got := len(strings.Fields(e.Must("ps", "-q"))); got != n {
		t.Fatalf("%d containers run, want %d", got, n)
	}
	for _, i := range []int{0, n / 2, n - 1} {
		if got := e.Must("exec", fmt.Sprint("idle", i), "hostname", "-i"); got == "" {
			t.Errorf("container %d has no address", i)
		}
	}
	parallel(n, func(i int) {
		if r := e.Caisson("rm", "-f", fmt.Sprint("idle", i)); r.Code != 0 {
			t.Errorf("remove %d: %v", i, r)
		}
	})
}

// Start–stop cycles leave no descriptor or file behind; nor, as the harness
// sees, a process, cgroup, mount or link.
func TestCycles(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	cycle := func(n int) {
		parallel(n, func(i int) {
			if r := e.Caisson("run", "--rm", "-p", "80", "busybox", "true"); r.Code != 0 {
				t.Errorf("cycle %d: %v", i, r)
			}
		})
	}
	cycle(40) // what is made once is made
	before := census(t, e)
	cycle(scaled(200, 1000))
	e.Until("descriptors and files are back to where they were", func() bool {
		for name, n := range census(t, e) {
			if n > before[name]+slack {
				return false
			}
		}
		return true
	})
}

// slack is how much a count may wander: idle connections and spare namespaces.
const slack = 12

// census counts what may leak: descriptors of each process, and files.
func census(t *testing.T, e *harness.Engine) map[string]int {
	t.Helper()
	m := map[string]int{}
	for _, p := range e.Processes() {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		m[p.Name+" descriptors"] += len(fds)
	}
	for _, dir := range []string{e.DataRoot + "/containers", e.DataRoot + "/roots", e.ExecRoot} {
		err := filepath.WalkDir(dir, func(string, os.DirEntry, error) error {
			m["files below "+filepath.Base(dir)]++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

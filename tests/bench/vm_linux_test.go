package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// accelerators are how machines can run; a host has one of them.
var accelerators = []string{"kvm", "tcg"}

// machines measures the vm level, on engines of its own: one that clones templates,
// one that keeps a machine ready.
func (o *table) machines(t *testing.T, p peers) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		o.rows = append(o.rows, row{what: "QEMU is not installed: no virtual machines"})
		return
	}
	if _, err := os.Stat(filepath.Join(harness.Bin(t), "guest/vmlinux")); err != nil {
		o.rows = append(o.rows, row{what: "no guest was built (make guest): no virtual machines"})
		return
	}
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	warm := func(e *harness.Engine) { e.Must("run", "--rm", "--isolation", "vm", "busybox", "true") }
	warm(e)
	here := ""
	for _, accel := range accelerators {
		if strings.Contains(e.Must("info"), "accelerator: "+accel) {
			here = accel
		}
	}
	for _, accel := range accelerators {
		if accel != here {
			o.rows = append(o.rows, row{what: "virtual machines, " + accel + ": not on this host"})
		}
	}
	name := func(what string) string { return "vm, " + here + ": " + what }
	e.Until("there is a template", func() bool {
		warm(e)
		return strings.Contains(backendLog(t, e), "clone=true")
	})
	run := []string{"run", "--rm", "--isolation", "vm", "busybox", "true"}
	contenders := []contender{{"template", func(int) *exec.Cmd { return e.Command("caisson", run...) }}}
	if p.docker != "" {
		contenders = append(contenders, contender{"docker", func(int) *exec.Cmd { return p.client("run", "--rm", "busybox", "true") }})
	}
	m := alternate(t, 11, contenders...)
	o.within(name("run --rm, from a template"), m["template"], m["docker"], 300*time.Millisecond)

	e.Must("run", "-d", "--name", "idle", "--isolation", "vm", "busybox", "sleep", "1000000")
	x := alternate(t, 21, contender{"exec", func(int) *exec.Cmd { return e.Command("caisson", "exec", "idle", "true") }})
	o.add(row{what: name("exec"), ours: ms(x["exec"]), ok: true})
	e.Must("rm", "-f", "idle")

	o.within(name("10 runs at once, until the last ends"), together(t, 10, func(int) *exec.Cmd { return e.Command("caisson", run...) }), 0, time.Second)
	o.idleMachines(t, e, name)
	o.pooled(t, name, m["docker"])
}

// within adds a row with a bound of time; peer is docker's, 0 if there is none.
func (o *table) within(what string, ours, peer, limit time.Duration) {
	r := row{what: what, ours: ms(ours), target: "≤ " + limit.String(), ok: ours <= limit}
	if peer > 0 {
		r.peer, r.ratio = "docker run "+ms(peer), fmt.Sprintf("%.2f", float64(ours)/float64(peer))
	}
	o.add(r)
}

// together runs n commands at once and tells when the last has ended.
func together(t *testing.T, n int, cmd func(i int) *exec.Cmd) time.Duration {
	t.Helper()
	var wg sync.WaitGroup
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			if out, err := cmd(i).CombinedOutput(); err != nil {
				t.Errorf("%d of %d at once: %v\n%s", i, n, err, out)
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

// idleMachines is what each machine with an idle container costs: memory of shim
// and monitor, and processor time.
func (o *table) idleMachines(t *testing.T, e *harness.Engine, name func(string) string) {
	const n = 10
	for i := range n {
		e.Must("run", "-d", "--name", fmt.Sprintf("m%d", i), "--isolation", "vm", "busybox", "sleep", "1000000")
	}
	each := float64(settled(func() int { return machineSum(t, e, pss) })) / n / 1024
	before := machineSum(t, e, ticks)
	const pause = 10
	time.Sleep(pause * time.Second)
	busy := float64(machineSum(t, e, ticks)-before) / pause / n
	for i := range n {
		e.Must("rm", "-f", fmt.Sprintf("m%d", i))
	}
	o.add(row{what: name("each of 10 with an idle container, PSS"), ours: fmt.Sprintf("%.1f MiB", each), target: "≤ 16", ok: each <= 16})
	o.add(row{what: name("the same, of a processor"), ours: fmt.Sprintf("%.2f %%", busy), target: "≤ 0.5", ok: busy <= 0.5})
}

// machineSum adds up a measure of all shims and their monitors.
func machineSum(t *testing.T, e *harness.Engine, measure func(pid int) int) int {
	t.Helper()
	sum := 0
	for _, p := range e.Processes() {
		if p.Name != "caisson-vmshim" {
			continue
		}
		sum += measure(p.PID)
		for _, child := range children(p.PID) {
			sum += measure(child)
		}
	}
	return sum
}

func children(pid int) []int {
	var list []int
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, s := range strings.Fields(string(b)) {
			var child int
			if n, _ := fmt.Sscan(s, &child); n == 1 {
				list = append(list, child)
			}
		}
	}
	return list
}

// ticks is the processor time that a process has used, in hundredths of a second.
func ticks(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	var user, system int
	if len(f) > 12 {
		_, _ = fmt.Sscan(f[11], &user)
		_, _ = fmt.Sscan(f[12], &system)
	}
	return user + system
}

// pooled measures starts from the pool, each once the pool is full again.
func (o *table) pooled(t *testing.T, name func(string) string, docker time.Duration) {
	e := harness.Start(t, "--backend-opt", "vm.pool=1")
	e.Load(testimage.Busybox(t, testimage.Config{}))
	run := func() time.Duration {
		return timed(t, e.Command("caisson", "run", "--rm", "--isolation", "vm", "busybox", "true"))
	}
	ready := func() int { return strings.Count(backendLog(t, e), "msg=ready") }
	run()
	e.Until("there is a template and a machine is ready", func() bool { run(); return ready() > 0 })
	var times []time.Duration
	for range 7 {
		was := ready()
		taken := strings.Count(backendLog(t, e), "pooled=true")
		took := run()
		if strings.Count(backendLog(t, e), "pooled=true") > taken {
			times = append(times, took)
		}
		e.Until("the pool is full again", func() bool { return ready() > was })
	}
	if len(times) == 0 {
		t.Error("no machine came from the pool")
		return
	}
	o.within(name("run --rm, from the pool"), median(times), docker, 150*time.Millisecond)
}

func backendLog(t *testing.T, e *harness.Engine) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(e.ExecRoot, "backends/vm/backend.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

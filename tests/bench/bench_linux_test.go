package bench

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// row is one line of the table.
type row struct {
	what   string
	ours   string
	peer   string
	ratio  string
	target string
	ok     bool
}

type table struct{ rows []row }

func TestBench(t *testing.T) {
	if os.Getenv("CAISSON_BENCH") == "" {
		t.Skip("only measures: make bench runs it")
	}
	harness.NeedRoot(t)
	harness.Need(t, "runc", "skopeo", "docker-registry", "busybox")
	var out table
	defer out.print()

	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	e.Must("run", "--rm", "busybox", "true")
	peers := startPeers(t)

	out.startTimes(t, e, peers)
	out.throughput(t, e, peers)
	out.memory(t, e, peers)
	out.pull(t, e, peers)
	out.machines(t, peers)
}

func (o *table) add(r row) {
	o.rows = append(o.rows, r)
	fmt.Printf("  … %s: %s, %s, ratio %s\n", r.what, r.ours, r.peer, r.ratio)
}

// compare adds a row of two measures of which less is better; limit is the
// greatest ratio that meets the target.
func (o *table) compare(what, peer string, ours, theirs time.Duration, limit float64) {
	ratio := float64(ours) / float64(theirs)
	o.add(row{what, ms(ours), peer + " " + ms(theirs), fmt.Sprintf("%.2f", ratio), fmt.Sprintf("≤ %.2f", limit), ratio <= limit})
}

func (o *table) print() {
	fmt.Printf("\n%-48s %14s  %-26s %7s %9s\n", "what", "caisson", "peer", "ratio", "target")
	for _, r := range o.rows {
		verdict := "reached"
		if !r.ok {
			verdict = "MISSED"
		}
		if r.target == "" {
			verdict = ""
		}
		fmt.Printf("%-48s %14s  %-26s %7s %9s  %s\n", r.what, r.ours, r.peer, r.ratio, r.target, verdict)
	}
	fmt.Println()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

// contender is one command that is measured.
type contender struct {
	name string
	cmd  func(i int) *exec.Cmd
}

// alternate runs the contenders in turn, n times each after one round to warm
// up, and returns the median of each.
func alternate(t *testing.T, n int, contenders ...contender) map[string]time.Duration {
	t.Helper()
	times := map[string][]time.Duration{}
	for i := -1; i < n; i++ {
		for _, c := range contenders {
			cmd := c.cmd(i + 1)
			var output strings.Builder
			cmd.Stdout, cmd.Stderr = &output, &output
			start := time.Now()
			err := cmd.Run()
			took := time.Since(start)
			if err != nil {
				t.Fatalf("%s: %v: %v\n%s", c.name, cmd.Args, err, output.String())
			}
			if i >= 0 {
				times[c.name] = append(times[c.name], took)
			}
		}
	}
	medians := map[string]time.Duration{}
	for name, ds := range times {
		medians[name] = median(ds)
	}
	return medians
}

func median(ds []time.Duration) time.Duration {
	slices.Sort(ds)
	return ds[len(ds)/2]
}

func (o *table) startTimes(t *testing.T, e *harness.Engine, p peers) {
	const n = 41
	caisson := func(name string, args ...string) contender {
		return contender{name, func(int) *exec.Cmd { return e.Command("caisson", args...) }}
	}
	runc := contender{"runc", p.runc}
	m := alternate(t, n, runc,
		caisson("none", "run", "--rm", "--network", "none", "busybox", "true"),
		caisson("bridge", "run", "--rm", "busybox", "true"))
	o.compare("run --rm --network none", "runc run", m["none"], m["runc"], 0.5)
	o.compare("run --rm with the bridge", "runc run", m["bridge"], m["runc"], 0.6)

	e.Must("run", "-d", "--name", "idle", "--network", "none", "busybox", "sleep", "1000000")
	x := alternate(t, n, runc, caisson("exec", "exec", "idle", "true"))
	o.compare("exec", "runc run", x["exec"], x["runc"], 0.4)
	e.Must("rm", "-f", "idle")

	if p.docker == "" {
		o.rows = append(o.rows, row{what: "docker is not installed: not compared"})
		return
	}
	docker := func(name string, args ...string) contender {
		return contender{name, func(int) *exec.Cmd { return p.client(args...) }}
	}
	d := alternate(t, 7,
		docker("none", "run", "--rm", "--network", "none", "busybox", "true"),
		docker("bridge", "run", "--rm", "busybox", "true"))
	o.compare("run --rm --network none", "docker", m["none"], d["none"], 0.05)
	o.compare("run --rm with the bridge", "docker", m["bridge"], d["bridge"], 0.05)
	p.must(t, "run", "-d", "--name", "idle", "--network", "none", "busybox", "sleep", "1000000")
	dx := alternate(t, 7, docker("exec", "exec", "idle", "true"))
	o.compare("exec", "docker", x["exec"], dx["exec"], 0.1)
	p.must(t, "rm", "-f", "idle")

	if p.podman == nil {
		return
	}
	pm := alternate(t, 5, contender{"podman", func(int) *exec.Cmd {
		return p.podman("run", "--rm", "--network", "none", "busybox", "true")
	}})
	o.compare("run --rm --network none", "podman", m["none"], pm["podman"], 0.1)
}

// throughput starts containers eight at a time.
func (o *table) throughput(t *testing.T, e *harness.Engine, p peers) {
	rate := func(n int, cmd func() *exec.Cmd) float64 {
		var wg sync.WaitGroup
		work := make(chan struct{})
		start := time.Now()
		for range 8 {
			wg.Go(func() {
				for range work {
					if out, err := cmd().CombinedOutput(); err != nil {
						t.Errorf("start: %v\n%s", err, out)
					}
				}
			})
		}
		for range n {
			work <- struct{}{}
		}
		close(work)
		wg.Wait()
		return float64(n) / time.Since(start).Seconds()
	}
	args := []string{"run", "--rm", "--network", "none", "busybox", "true"}
	ours := rate(200, func() *exec.Cmd { return e.Command("caisson", args...) })
	r := row{what: "starts per second, 8 at a time", ours: fmt.Sprintf("%.0f/s", ours), target: "≥ 100", ok: ours >= 100}
	if p.docker != "" {
		theirs := rate(24, func() *exec.Cmd { return p.client(args...) })
		r.peer, r.ratio = fmt.Sprintf("docker %.1f/s", theirs), fmt.Sprintf("%.1f", ours/theirs)
	}
	o.add(r)
}

// memory is what the engine costs at rest, and each idle container beyond its
// own processes.
func (o *table) memory(t *testing.T, e *harness.Engine, p peers) {
	const n = 40
	rest := settled(func() int { return ourPSS(e) })
	for i := range n {
		e.Must("run", "-d", "--name", fmt.Sprintf("m%d", i), "--network", "none", "busybox", "sleep", "1000000")
	}
	full := settled(func() int { return ourPSS(e) })
	each := float64(full-rest) / n / 1024
	for i := range n {
		e.Must("rm", "-f", fmt.Sprintf("m%d", i))
	}
	atRest := row{what: "engine and backends at rest, PSS", ours: mib(rest), target: "≤ 40 MiB", ok: rest <= 40<<10}
	perIdle := row{what: "each idle container beyond itself, PSS", ours: fmt.Sprintf("%.2f MiB", each), target: "≤ 0.20", ok: each <= 0.2}
	if p.docker != "" {
		base := settled(p.pss)
		for i := range 10 {
			p.must(t, "run", "-d", "--name", fmt.Sprintf("m%d", i), "--network", "none", "busybox", "sleep", "1000000")
		}
		theirs := float64(settled(p.pss)-base) / 10 / 1024
		for i := range 10 {
			p.must(t, "rm", "-f", fmt.Sprintf("m%d", i))
		}
		atRest.peer, atRest.ratio = "dockerd+containerd "+mib(base), fmt.Sprintf("%.2f", float64(rest)/float64(base))
		perIdle.peer, perIdle.ratio = fmt.Sprintf("docker %.2f MiB", theirs), fmt.Sprintf("%.2f", each/theirs)
	}
	o.add(atRest)
	o.add(perIdle)
}

func mib(kib int) string { return fmt.Sprintf("%.1f MiB", float64(kib)/1024) }

// settled is the least of a measure in KiB over twenty seconds: what is there at
// rest, once everybody has seen that nothing happens and has tidied up.
func settled(measure func() int) int {
	least := measure()
	for range 20 {
		time.Sleep(time.Second)
		least = min(least, measure())
	}
	return least
}

func ourPSS(e *harness.Engine) int {
	sum := 0
	for _, p := range e.Processes() {
		sum += pss(p.PID)
	}
	return sum
}

// pss is a process's proportional share of memory in KiB.
func pss(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kib); n == 1 {
			return kib
		}
	}
	return 0
}

// pull pulls and unpacks a large image from a registry on the loopback, both
// engines in turn, three times.
func (o *table) pull(t *testing.T, e *harness.Engine, p peers) {
	r := testimage.StartRegistry(t)
	archive := testimage.Large(t)
	ref := r.Addr + "/large:latest"
	testimage.Push(t, archive, ref)
	fi, err := os.Stat(archive)
	if err != nil {
		t.Fatal(err)
	}
	blobs := t.TempDir()
	if out, err := exec.Command("tar", "-C", blobs, "-xf", archive).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	var ours, theirs, gz []time.Duration
	for range 3 {
		gz = append(gz, timed(t, exec.Command("sh", "-c", "for f in \"$1\"/blobs/sha256/*; do gzip -dc $f 2>/dev/null; done >/dev/null; true", "sh", blobs)))
		ours = append(ours, timed(t, e.Command("caisson", "pull", "--quiet", ref)))
		timed(t, e.Command("caisson", "rmi", ref))
		if p.docker != "" {
			theirs = append(theirs, timed(t, p.client("pull", "--quiet", ref)))
			timed(t, p.client("rmi", ref))
		}
	}
	what := fmt.Sprintf("pull and unpack %d MB gzip, 4 layers", fi.Size()/1_000_000)
	if p.docker != "" {
		o.compare(what, "docker", median(ours), median(theirs), 0.3)
	}
	ratio := float64(median(ours)) / float64(median(gz))
	o.add(row{what, ms(median(ours)), "gzip -dc alone " + ms(median(gz)), fmt.Sprintf("%.2f", ratio), "", true})
}

func timed(t *testing.T, cmd *exec.Cmd) time.Duration {
	t.Helper()
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return time.Since(start)
}

package vmm

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkRestore is from Launch to the guest's first answer.
func BenchmarkRestore(b *testing.B) {
	q, shape := setUp(b)
	shape.Memory = 256 << 20
	tmpl := makeTemplate(b, q, shape)
	for b.Loop() {
		l, err := q.Launch(Config{Shape: shape, Template: tmpl, Jail: testJail()})
		if err != nil {
			b.Fatal(err)
		}
		m, err := q.Attach(within(b, time.Minute), l)
		if err != nil {
			b.Fatal(err)
		}
		newAgent(m).must(b, "pong", "ping")
		b.StopTimer()
		if err := m.Kill(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkBoot is the same without a template.
func BenchmarkBoot(b *testing.B) {
	q, shape := setUp(b)
	shape.Memory = 256 << 20
	for b.Loop() {
		l, err := q.Launch(Config{Shape: shape, Jail: testJail()})
		if err != nil {
			b.Fatal(err)
		}
		m, err := q.Attach(within(b, time.Minute), l)
		if err != nil {
			b.Fatal(err)
		}
		newAgent(m).must(b, "pong", "ping")
		b.StopTimer()
		if err := m.Kill(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// pss is a process's share of memory, in KiB.
func pss(t testing.TB, pid int) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	t.Fatal("no Pss")
	return 0
}

// A hundred machines at once: what each costs when it does nothing.
func TestHundredClones(t *testing.T) {
	if os.Getenv("CAISSON_SOAK") == "" {
		t.Skip("slow: CAISSON_SOAK=1 runs it")
	}
	q, shape := setUp(t)
	shape.Memory = 256 << 20
	tmpl := makeTemplate(t, q, shape)
	const n = 100
	var machines []Machine
	var answers []time.Duration
	all := time.Now()
	for i := range n {
		jail := testJail()
		jail.UID, jail.GID = jail.UID+i, jail.GID+i
		at := time.Now()
		m := start(t, q, Config{Shape: shape, Template: tmpl, Jail: jail})
		newAgent(m).must(t, "pong", "ping")
		answers = append(answers, time.Since(at))
		machines = append(machines, m)
	}
	took := time.Since(all)
	slices.Sort(answers)
	var before, after time.Duration
	var memory int64
	for _, m := range machines {
		before += processorTime(m.PID())
	}
	const idle = 10 * time.Second
	time.Sleep(idle)
	for _, m := range machines {
		after += processorTime(m.PID())
		memory += pss(t, m.PID())
	}
	mean := memory / n
	t.Logf("%d machines in %v; answer min %v median %v max %v; PSS mean %.1f MiB; idle %.2f %% of a processor each",
		n, took, answers[0], answers[n/2], answers[n-1], float64(mean)/1024, 100*(after-before).Seconds()/idle.Seconds()/n)
	// 15 restored and not spoken to; each of these has translated what an answer
	// takes, too.
	if mean > 24<<10 {
		t.Errorf("an idle machine takes %d KiB, more than 24 MiB", mean)
	}
}

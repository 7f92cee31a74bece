//go:build linux

package runtime

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkPhases tells how long each step of a container's life takes: the
// median, and the first decile, which a busy machine disturbs least.
func BenchmarkPhases(b *testing.B) {
	g := newRig(b)
	root := busybox(b)
	var ph [4][]time.Duration
	for i := 0; b.Loop(); i++ {
		t0 := time.Now()
		p, err := g.r.Create(b.Context(), CreateOptions{Key: fmt.Sprintf("p%d", i), Spec: ordinary(root, "/bin/true")})
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if err := p.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		<-p.Done()
		t3 := time.Now()
		p.Release()
		t4 := time.Now()
		for k, d := range []time.Duration{t1.Sub(t0), t2.Sub(t1), t3.Sub(t2), t4.Sub(t3)} {
			ph[k] = append(ph[k], d)
		}
	}
	for k, n := range []string{"create", "start", "exit", "release"} {
		slices.Sort(ph[k])
		b.ReportMetric(float64(ph[k][len(ph[k])/2].Microseconds()), n+"-us")
		b.ReportMetric(float64(ph[k][len(ph[k])/10].Microseconds()), n+"-p10-us")
	}
}

package hostnet

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/engine/network"
)

// BenchmarkAttach measures a container's network from Attach to Release: one
// container after another with a pause, as by a user, and eight at a time
// without, as by a busy host. The times reported are medians
// of the calls alone.
func BenchmarkAttach(b *testing.B) {
	for _, mode := range []string{"none", "bridge"} {
		for _, spares := range []int{-1, network.DefaultSpares} {
			b.Run(fmt.Sprintf("%s/spares=%d/paused", mode, max(spares, 0)), func(b *testing.B) {
				bench(b, mode, spares, 1, 8*time.Millisecond)
			})
			b.Run(fmt.Sprintf("%s/spares=%d/busy8", mode, max(spares, 0)), func(b *testing.B) {
				bench(b, mode, spares, 8, 0)
			})
		}
	}
}

func bench(b *testing.B, mode string, spares, parallel int, pause time.Duration) {
	needWorld(b)
	quiet := slog.New(slog.DiscardHandler)
	d, err := New(Config{HostID: "bench", Log: quiet})
	if err != nil {
		b.Fatal(err)
	}
	m, err := network.NewManager(network.Config{HostID: "bench", Spares: spares, Log: quiet}, d)
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	if err := m.Restore(ctx, nil, nil); err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	var attach, release []time.Duration
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for i := range jobs {
				begin := time.Now()
				a, ns, err := m.Attach(ctx, network.Request{Container: fmt.Sprint(i), Mode: mode})
				if err != nil {
					b.Error(err)
					continue
				}
				attached := time.Now()
				_ = ns.Close()
				closed := time.Now()
				_ = m.Release(ctx, a)
				mu.Lock()
				attach = append(attach, attached.Sub(begin))
				release = append(release, time.Since(closed))
				mu.Unlock()
				time.Sleep(pause)
			}
		})
	}
	b.ResetTimer()
	for i := range b.N {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	b.StopTimer()
	median := func(t []time.Duration) float64 {
		slices.Sort(t)
		return float64(t[len(t)/2].Microseconds())
	}
	b.ReportMetric(median(attach), "µs/attach")
	b.ReportMetric(median(release), "µs/release")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "attaches/s")
	if err := m.Cleanup(); err != nil {
		b.Error(err)
	}
	if err := m.Close(); err != nil {
		b.Error(err)
	}
}

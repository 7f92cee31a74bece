package engine_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"testing"

	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/enginetest"
)

func benchEngine(b *testing.B) *engine.Engine {
	b.Helper()
	if runtime.GOOS != "linux" {
		b.Skip("needs linux: the default seccomp profile can be made there only")
	}
	dir := b.TempDir()
	bk := &enginetest.Launcher{}
	e, err := engine.New(engine.Config{
		DataRoot: filepath.Join(dir, "data"), ExecRoot: filepath.Join(dir, "exec"), HostID: "bench",
		Launcher: bk, Images: enginetest.NewImages(filepath.Join(dir, "roots")), Network: &enginetest.Network{Dir: filepath.Join(dir, "net")},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := e.Restore(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close(); bk.Kill() })
	return e
}

// BenchmarkRun is run --rm as a client does it: create, wait, start, removed.
func BenchmarkRun(b *testing.B) {
	e := benchEngine(b)
	b.ReportAllocs()
	for b.Loop() {
		c, err := e.Create(b.Context(), engine.CreateRequest{
			Config:     &apicontainer.Config{Image: "img", Cmd: []string{"true"}},
			HostConfig: &apicontainer.HostConfig{AutoRemove: true, NetworkMode: "none"},
		})
		if err != nil {
			b.Fatal(err)
		}
		gone, err := e.Wait(b.Context(), c.ID, apicontainer.WaitConditionRemoved)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Start(b.Context(), c.ID); err != nil {
			b.Fatal(err)
		}
		<-gone
	}
}

// BenchmarkIdle reports what the engine keeps in memory for a running container.
func BenchmarkIdle(b *testing.B) {
	const n = 500
	for b.Loop() {
		e := benchEngine(b)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range n {
			if _, err := e.Create(b.Context(), engine.CreateRequest{
				Name:   fmt.Sprintf("idle%d", i),
				Config: &apicontainer.Config{Image: "img", Cmd: []string{"hang"}}, HostConfig: &apicontainer.HostConfig{AutoRemove: true},
			}); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/container")
		if err := e.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

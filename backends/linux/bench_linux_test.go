package linux_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// BenchmarkRun is what the engine asks for one "run --rm true": the whole life
// of a container, through the plugin.
func BenchmarkRun(b *testing.B) {
	h := newHost(b)
	ev, err := h.client.Events(b.Context(), 0)
	if err != nil {
		b.Fatal(err)
	}
	var steps [7][]time.Duration
	n := 0
	for b.Loop() {
		n++
		id := fmt.Sprintf("b%d", n)
		c := h.container(b, id, false, "true")
		c.Sandbox, c.Io, c.Log = id, &backendpb.IO{}, &backendpb.Log{Path: filepath.Join(b.TempDir(), "log")}
		at := time.Now()
		step := func(i int, err error) {
			if err != nil {
				b.Fatal(err)
			}
			steps[i] = append(steps[i], time.Since(at))
			at = time.Now()
		}
		ref := &backendpb.ProcessRef{Container: id}
		step(0, h.client.Open(b.Context(), &backendpb.Sandbox{Id: id}))
		_, err := h.client.Create(b.Context(), c)
		step(1, err)
		a, err := h.client.Attach(b.Context(), &backendpb.AttachOpen{Process: ref, Stdout: true, Stderr: true})
		step(2, err)
		_, err = h.client.Start(b.Context(), ref)
		step(3, err)
		step(4, exited(ev, ref))
		_ = a.Close()
		step(5, h.client.Delete(b.Context(), ref))
		step(6, h.client.Close(b.Context(), id))
	}
	for i, name := range []string{"open", "create", "attach", "start", "exit", "delete", "close"} {
		// The median, since others may be busy on the machine.
		slices.Sort(steps[i])
		b.ReportMetric(float64(steps[i][len(steps[i])/2].Microseconds()), name+"-µs")
	}
}

func exited(ev backend.EventStream, ref *backendpb.ProcessRef) error {
	for {
		e, err := ev.Recv()
		if err != nil || e.Type == backendpb.Event_EXITED && e.Process.GetContainer() == ref.Container && e.Process.GetExec() == ref.Exec {
			return err
		}
	}
}

// BenchmarkExec is what the engine asks for one "exec true".
func BenchmarkExec(b *testing.B) {
	h := newHost(b)
	ev, err := h.client.Events(b.Context(), 0)
	if err != nil {
		b.Fatal(err)
	}
	c := h.container(b, "c", false, "sleep", "100000")
	c.Sandbox, c.Io, c.Log = "c", &backendpb.IO{}, &backendpb.Log{Path: filepath.Join(b.TempDir(), "log")}
	if err := h.client.Open(b.Context(), &backendpb.Sandbox{Id: "c"}); err != nil {
		b.Fatal(err)
	}
	if _, err := h.client.Create(b.Context(), c); err != nil {
		b.Fatal(err)
	}
	if _, err := h.client.Start(b.Context(), &backendpb.ProcessRef{Container: "c"}); err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		n++
		ref := &backendpb.ProcessRef{Container: "c", Exec: fmt.Sprintf("e%d", n)}
		if err := h.client.Exec(b.Context(), &backendpb.ExecSpec{Container: "c", Exec: ref.Exec, Process: processJSON(b, false, "true"), Io: &backendpb.IO{}}); err != nil {
			b.Fatal(err)
		}
		if _, err := h.client.Start(b.Context(), ref); err != nil {
			b.Fatal(err)
		}
		if err := exited(ev, ref); err != nil {
			b.Fatal(err)
		}
		if err := h.client.Delete(b.Context(), ref); err != nil {
			b.Fatal(err)
		}
	}
}

package linux_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
)

// counter prints lines as fast as sleeping 1 ms allows.
const counter = `i=0; while [ $i -lt %d ]; do echo $i; [ $((i%%3)) = 0 ] && echo e$i >&2; i=$((i+1)); sleep 0.001; done; exit 33`

// TestKillAnybody kills backend and keeper in turn at random moments while a
// container prints, and then wants every line once, its exit code, and an exec
// that works after each kill.
func TestKillAnybody(t *testing.T) {
	h := newHost(t)
	const lines = 1500
	c := h.container(t, "c", false, "sh", "-c", fmt.Sprintf(counter, lines))
	log := filepath.Join(t.TempDir(), "log")
	c.Sandbox, c.Io, c.Log = "c", &backendpb.IO{}, &backendpb.Log{Path: log, Options: map[string]string{"max-size": "5k", "max-file": "1000"}}
	ctx := t.Context()
	if err := h.client.Open(ctx, &backendpb.Sandbox{Id: "c"}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.Start(ctx, &backendpb.ProcessRef{Container: "c"}); err != nil {
		t.Fatal(err)
	}
	for round := range 16 {
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		if round%2 == 0 {
			h.crash(func() {})
		} else if !endKeeper(t, filepath.Join(h.options.StateDir, "runtime")) {
			t.Fatal("there is no keeper to kill")
		}
		if st, err := h.client.State(ctx, "c"); err != nil {
			t.Fatal(err)
		} else if st.GetInit().GetPhase() == backendpb.ProcessState_EXITED {
			break
		}
		exec := fmt.Sprintf("e%d", round)
		if err := h.exec(ctx, exec, round); err != nil && h.isRunning(ctx) {
			t.Fatalf("exec after kill %d: %v", round, err)
		}
	}
	ev, err := h.client.Events(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	for {
		e, err := ev.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.GetType() == backendpb.Event_EXITED && e.GetProcess().GetExec() == "" {
			// Before Linux 6.15 the code dies with the keeper, and must be said
			// to be unknown.
			if x := e.GetExit(); x.GetCode() != 33 && (!x.GetUnknown() || x.GetCode() != 255 || h.codesSurvive()) {
				t.Errorf("exit: %v, want code 33", x)
			}
			break
		}
	}
	want := map[string]*strings.Builder{logs.Stdout: {}, logs.Stderr: {}}
	for i := range lines {
		fmt.Fprintln(want[logs.Stdout], i)
		if i%3 == 0 {
			fmt.Fprintf(want[logs.Stderr], "e%d\n", i)
		}
	}
	got := map[string]*strings.Builder{logs.Stdout: {}, logs.Stderr: {}}
	if err := logs.Read(ctx, logs.Config{Path: log, Options: c.Log.Options}, logs.Options{Stdout: true, Stderr: true, Tail: -1}, func(r logs.Record) error {
		got[r.Stream].Write(r.Line)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for s := range want {
		if got[s].String() == want[s].String() {
			continue
		}
		g, w := strings.Split(got[s].String(), "\n"), strings.Split(want[s].String(), "\n")
		i := 0
		for i < len(g) && i < len(w) && g[i] == w[i] {
			i++
		}
		t.Errorf("%s: %d lines, want %d; wrong from line %d on: %q", s, len(g)-1, len(w)-1, i, g[i:min(len(g), i+3)])
	}
}

// codesSurvive tells whether exit codes survive the keeper on this kernel.
func (h *host) codesSurvive() bool {
	h.t.Helper()
	info, err := h.client.Info(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range info.GetFacts() {
		if f.GetKey() == "exit-codes-survive-keeper" {
			return f.GetValue() == "true"
		}
	}
	return false
}

func (h *host) isRunning(ctx context.Context) bool {
	st, err := h.client.State(ctx, "c")
	return err == nil && st.GetInit().GetPhase() == backendpb.ProcessState_RUNNING
}

// exec runs one to its end and looks at its code.
func (h *host) exec(ctx context.Context, id string, code int) error {
	ref := &backendpb.ProcessRef{Container: "c", Exec: id}
	if err := h.client.Exec(ctx, &backendpb.ExecSpec{
		Container: "c", Exec: id, Process: processJSON(h.t, false, "sh", "-c", fmt.Sprintf("exit %d", code)), Io: &backendpb.IO{},
	}); err != nil {
		return err
	}
	if _, err := h.client.Start(ctx, ref); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ev, err := h.client.Events(ctx, 0)
	if err != nil {
		return err
	}
	if err := exited(ev, ref); err != nil {
		return err
	}
	st, err := h.client.State(ctx, "c")
	if err != nil {
		return err
	}
	for _, p := range st.GetExecs() {
		if p.GetProcess().GetExec() == id && p.GetExit().GetCode() != int32(code) {
			return fmt.Errorf("exit %v, want code %d", p.GetExit(), code)
		}
	}
	return h.client.Delete(ctx, ref)
}

// TestNothingIsLeft runs containers and compares what the host had before.
func TestNothingIsLeft(t *testing.T) {
	h := newHost(t)
	ctx := t.Context()
	ev, err := h.client.Events(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	life := func(id string) {
		t.Helper()
		c := h.container(t, id, false, "sh", "-c", "echo hello; exit 3")
		c.Sandbox, c.Io, c.Log = id, &backendpb.IO{Stdin: true}, &backendpb.Log{Path: filepath.Join(t.TempDir(), "log")}
		ref := &backendpb.ProcessRef{Container: id}
		if err := h.client.Open(ctx, &backendpb.Sandbox{Id: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.client.Create(ctx, c); err != nil {
			t.Fatal(err)
		}
		if _, err := h.client.Start(ctx, ref); err != nil {
			t.Fatal(err)
		}
		if err := exited(ev, ref); err != nil {
			t.Fatal(err)
		}
		if err := h.client.Close(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	count := func() map[string]int {
		n := map[string]int{}
		for what, pattern := range map[string]string{
			"descriptors":    fmt.Sprintf("/proc/%d/fd/*", h.client.PID()),
			"control groups": "/sys/fs/cgroup/*" + h.parent + "/*/",
			"records":        h.options.StateDir + "/containers/*",
			"sandboxes":      h.options.StateDir + "/sandboxes/*",
		} {
			list, _ := filepath.Glob(pattern)
			n[what] = len(list)
		}
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, h.options.StateDir) || strings.Contains(line, t.Name()) {
				n["mounts"]++
			}
		}
		return n
	}
	life("warm")
	before := count()
	for i := range 50 {
		life(fmt.Sprintf("c%d", i))
	}
	for what, n := range count() {
		if n > before[what] {
			t.Errorf("%s: %d before, %d after", what, before[what], n)
		}
	}
}

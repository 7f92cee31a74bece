package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// testGroup makes a group that is gone at the end of the test.
func testGroup(t *testing.T, limits *specs.LinuxResources) *Group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes control groups")
	}
	h, err := Open()
	if errdefs.IsUnavailable(err) {
		t.Skip("needs control groups: " + err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	parent := fmt.Sprintf("/caisson-cgrouptest-%d", os.Getpid())
	g, warnings, err := h.Create(parent+"/"+t.Name(), limits)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		t.Log(w)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := g.Kill(ctx); err != nil {
			t.Error(err)
		}
		if err := g.Delete(ctx); err != nil {
			t.Error(err)
		}
		if err := h.DeleteParent(parent); err != nil {
			t.Error(err)
		}
	})
	return g
}

// inGroup runs a shell command inside the group.
func inGroup(t *testing.T, g *Group, script string) *exec.Cmd {
	t.Helper()
	enter := ""
	for _, f := range g.TaskFiles() {
		enter += "echo 0 >" + f + ";"
	}
	if len(g.TaskFiles()) == 0 || g.host.unified != "" {
		enter += "echo 0 >" + g.unified() + "/cgroup.procs;"
	}
	cmd := exec.Command("/bin/sh", "-c", enter+script)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestLimitsStatsKill(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	g := testGroup(t, &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: n(64 << 20)},
		Pids:    &specs.LinuxPids{Limit: n(17)},
		Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: n(1), Minor: n(3), Access: "rwm"}},
	})
	cmd := inGroup(t, g, `exec 3</dev/null; (exec 4</dev/zero) 2>/dev/null && exit 9; echo in; sleep 1000 & wait`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if b := make([]byte, 3); true {
		if _, err := out.Read(b); err != nil || string(b) != "in\n" {
			t.Fatalf("device rules are not as asked: %q, %v", b, err)
		}
	}
	pids, err := g.Pids()
	if err != nil || !slices.Contains(pids, cmd.Process.Pid) {
		t.Errorf("processes %v, want %d among them: %v", pids, cmd.Process.Pid, err)
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if g.host.Has("memory") && (s.Memory.Limit != 64<<20 || s.Memory.Usage == 0) || g.host.Has("pids") && (s.PidsLimit != 17 || s.Pids == 0) {
		t.Errorf("stats: %+v", s)
	}
	if _, err := g.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: n(128 << 20), Swap: n(-1)}}); err != nil {
		t.Error(err)
	}
	if err := g.Freeze(t.Context()); err != nil {
		t.Error(err)
	}
	if !g.Frozen() {
		t.Error("frozen group does not say so")
	}
	// Kill reaches the frozen.
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := g.Thaw(); err != nil {
		t.Error(err)
	}
}

func TestOOMKills(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	g := testGroup(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: n(16 << 20), Swap: n(16 << 20)}})
	if !g.host.Has("memory") {
		t.Skip("needs a memory controller")
	}
	_ = inGroup(t, g, `exec head -c 64m /dev/zero | tail >/dev/null`).Run()
	if g.OOMKills() == 0 {
		t.Error("no OOM kill was counted")
	}
}

func TestDeleteWaits(t *testing.T) {
	g := testGroup(t, nil)
	cmd := inGroup(t, g, `echo in; exec sleep 1000`)
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := g.Delete(ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("deleting a group in use: %v", err)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	if err := g.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := g.Stats(); !errdefs.IsNotFound(err) {
		t.Errorf("stats of a deleted group: %v", err)
	}
}

func BenchmarkCreateDelete(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root: makes control groups")
	}
	h, err := Open()
	if err != nil {
		b.Skip(err)
	}
	for b.Loop() {
		g, _, err := h.Create("/caisson-cgroupbench/x", nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	_ = h.DeleteParent("/caisson-cgroupbench")
}

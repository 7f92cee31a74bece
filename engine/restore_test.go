package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/backend/fake"
	"github.com/caisson-engine/caisson/engine/enginetest"
	"github.com/caisson-engine/caisson/engine/policy"
)

func policyOf(name apicontainer.RestartPolicyMode) func(*apicontainer.Config, *apicontainer.HostConfig) {
	return func(_ *apicontainer.Config, h *apicontainer.HostConfig) { h.RestartPolicy.Name = name }
}

// What runs goes on while the engine is away, and what ended meanwhile has its
// exit code.
func TestEngineRestarts(t *testing.T) {
	r := newRig(t)
	on := r.run("on", "")
	ended := r.run("ended", "sleep 0.2; exit 9")
	removed := r.run("removed", "sleep 0.2; exit 9", autoRemove)
	r.close()
	time.Sleep(400 * time.Millisecond) // the containers' own time, not the engine's
	r.boot()
	if s := r.status(on); s != "running" {
		t.Errorf("it is %s", s)
	}
	if in := r.inspect(ended); in.State.Status != "exited" || in.State.ExitCode != 9 {
		t.Errorf("%+v", in.State)
	}
	r.eventually("its removal", func() bool { return r.status(removed) == "gone" })
	if got := r.net.Held(); len(got) != 1 || got[0] != on {
		t.Errorf("networks: %v", got)
	}
}

// After a reboot nothing runs, whatever the records say, and the policies apply.
func TestHostReboots(t *testing.T) {
	r := newRig(t)
	zero := 0
	stop := func(id string) string {
		t.Helper()
		if _, err := r.e.Stop(r.ctx(), id, engine.StopOptions{Timeout: &zero}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	want := map[string]string{
		r.run("plain", ""):                                  "exited",
		r.run("always", "", policyOf("always")):             "running",
		stop(r.run("als", "", policyOf("always"))):          "running",
		r.run("unless", "", policyOf("unless-stopped")):     "running",
		stop(r.run("unls", "", policyOf("unless-stopped"))): "exited",
		r.run("failing", "", policyOf("on-failure")):        "running",
		r.run("once", "", autoRemove):                       "gone",
		r.create("never", ""):                               "created",
	}
	r.close()
	r.bk.Kill()
	r.bk.Options.StateFile += ".next" // the machine forgot
	r.cfg.BootID = "boot2"
	r.boot()
	for id, state := range want {
		r.eventually(fmt.Sprintf("%s is %s", id[:12], state), func() bool { return r.status(id) == state })
	}
	if in := r.inspect("plain"); in.State.ExitCode != 255 || !strings.Contains(in.State.Error, "restarted") {
		t.Errorf("%+v", in.State)
	}
}

// The API can be served while much is restored.
func TestRestoresMany(t *testing.T) {
	r := newRig(t)
	r.bk.Options.StateFile = ""
	const n = 200
	for i := range n {
		r.run(fmt.Sprintf("many%d", i), "")
	}
	r.close()
	began := time.Now()
	r.boot()
	l, err := r.e.List(r.ctx(), false, false, 0, nil)
	if err != nil || len(l) != n {
		t.Errorf("%d run, %v", len(l), err)
	}
	t.Logf("restored %d in %s", n, time.Since(began))
}

// flaky is a launcher that fails at first.
type flaky struct {
	engine.Launcher
	failures int
}

func (f *flaky) Launch(ctx context.Context, b engine.BackendBinary) (engine.BackendProcess, error) {
	if f.failures--; f.failures >= 0 {
		return nil, fmt.Errorf("it does not start: %w", errdefs.ErrUnavailable)
	}
	return f.Launcher.Launch(ctx, b)
}

func TestBackendComesLater(t *testing.T) {
	f := &flaky{failures: 4}
	r := newRig(t, func(c *engine.Config, _ *enginetest.Launcher) { f.Launcher, c.Launcher = c.Launcher, f })
	bs, err := r.e.Backends(r.ctx())
	if err != nil || len(bs) != 1 || !strings.Contains(bs[0].Problem, "it does not start") {
		t.Errorf("%+v %v", bs, err)
	}
	_, err = r.e.Create(r.ctx(), engine.CreateRequest{Config: &apicontainer.Config{Image: "img"}})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "it does not start") {
		t.Error(err)
	}
	r.eventually("the backend", func() bool {
		bs, _ := r.e.Backends(r.ctx())
		return bs[0].Problem == "" && bs[0].Version == "fake"
	})
	r.run("", "")
}

func TestBackendOfAnotherName(t *testing.T) {
	r := newRig(t, func(_ *engine.Config, l *enginetest.Launcher) { l.Options.Name = "impostor" })
	r.eventually("what is wrong with the backend", func() bool {
		bs, err := r.e.Backends(r.ctx())
		return err == nil && strings.Contains(bs[0].Problem, `"impostor"`)
	})
}

func TestPolicyIsReloaded(t *testing.T) {
	r := newRig(t)
	r.create("", "")
	r.e.Reload(engine.Defaults{}, &policy.Policy{MinimumLevel: "vm"})
	_, err := r.e.Create(r.ctx(), engine.CreateRequest{Config: &apicontainer.Config{Image: "img"}, HostConfig: &apicontainer.HostConfig{Isolation: "process"}})
	if !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
}

// Whatever a backend answers, a start that fails leaves nothing and can be
// repeated.
func TestBackendFails(t *testing.T) {
	for _, verb := range []string{"Open", "Create", "Start", "Attach"} {
		for _, kind := range []string{"internal", "invalid argument", "already exists", "resource exhausted"} {
			t.Run(verb+" "+kind, func(t *testing.T) {
				r := newRig(t, func(_ *engine.Config, l *enginetest.Launcher) {
					l.Options.Faults = fake.Faults{verb: {Times: 1, Kind: kind}}
				})
				id := r.create("", "")
				attached, done := make(chan struct{}), make(chan error, 1)
				go func() {
					done <- r.e.Attach(r.ctx(), id, engine.AttachOptions{Stream: true, Stdout: &buffer{}, Ready: func(bool) error { close(attached); return nil }})
				}()
				<-attached
				if _, err := r.e.Start(r.ctx(), id); err == nil {
					t.Fatal("no error")
				}
				if err := <-done; err != nil {
					t.Errorf("attach: %v", err)
				}
				if len(r.net.Held()) > 0 {
					t.Error("the network is still held")
				}
				r.start(id)
				if err := r.e.Remove(r.ctx(), id, engine.RemoveOptions{Force: true}); err != nil {
					t.Error(err)
				}
				r.nothingLeft()
			})
		}
	}
}

// A removal that fails says so, and can be repeated.
func TestRemovalFails(t *testing.T) {
	r := newRig(t)
	id := r.create("", "")
	r.img.Fail = map[string]error{"Release": errors.New("busy")}
	if err := r.e.Remove(r.ctx(), id, engine.RemoveOptions{}); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Error(err)
	}
	if s := r.status(id); s != "dead" {
		t.Errorf("it is %s", s)
	}
	r.restart()
	r.img.Fail = nil
	if err := r.e.Remove(r.ctx(), id, engine.RemoveOptions{}); err != nil {
		t.Error(err)
	}
	r.nothingLeft()
}

package engine_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"
	apievents "github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine"
)

// checked gives a container a health check that is quick.
func checked(test string, change ...func(*apicontainer.HealthConfig)) func(*apicontainer.Config, *apicontainer.HostConfig) {
	return func(c *apicontainer.Config, _ *apicontainer.HostConfig) {
		c.Healthcheck = &apicontainer.HealthConfig{Test: []string{"CMD-SHELL", test}, Interval: 5 * time.Millisecond, Timeout: 10 * time.Second, Retries: 2}
		for _, f := range change {
			f(c.Healthcheck)
		}
	}
}

func (r *rig) health(id string) apicontainer.Health {
	r.t.Helper()
	if h := r.inspect(id).State.Health; h != nil {
		return *h
	}
	return apicontainer.Health{}
}

func (r *rig) becomes(id string, want apicontainer.HealthStatus) {
	r.t.Helper()
	r.eventually(string(want), func() bool { return r.health(id).Status == want })
}

// happened lists the actions of a container's events that begin so.
func (r *rig) happened(id, prefix string) (out []string) {
	r.t.Helper()
	ch, err := r.e.Events(r.ctx(), time.Unix(1, 0), time.Now(), map[string][]string{"container": {id}})
	if err != nil {
		r.t.Fatal(err)
	}
	for m := range ch {
		if strings.HasPrefix(string(m.Action), prefix) {
			out = append(out, string(m.Action))
		}
	}
	return out
}

func TestHealth(t *testing.T) {
	r := newRig(t)
	none := r.run("none", "hang")
	if h := r.inspect(none).State.Health; h != nil {
		t.Errorf("without a check: %+v", h)
	}
	good := r.run("good", "hang", checked("echo fine"))
	r.becomes(good, apicontainer.Healthy)
	r.eventually("results", func() bool { return len(r.health(good).Log) == 5 })
	if h := r.health(good); h.FailingStreak != 0 || h.Log[4].Output != "fine\n" || h.Log[4].ExitCode != 0 || h.Log[4].End.Before(h.Log[4].Start) || !h.Log[3].End.Before(h.Log[4].Start) {
		t.Errorf("%+v %+v", h, h.Log[4])
	}
	bad := r.run("bad", "hang", checked("echo why; exit 1"))
	r.becomes(bad, apicontainer.Unhealthy)
	if h := r.health(bad); h.FailingStreak < 2 || h.Log[0].Output != "why\n" || h.Log[0].ExitCode != 1 {
		t.Errorf("%+v", h)
	}
	missing := r.run("missing", "hang", checked(""), func(c *apicontainer.Config, _ *apicontainer.HostConfig) {
		c.Healthcheck.Test = []string{"CMD", "nosuchcommand"}
	})
	r.becomes(missing, apicontainer.Unhealthy)
	if h := r.health(missing); h.Log[0].ExitCode != -1 || !strings.Contains(h.Log[0].Output, `exec: "nosuchcommand"`) {
		t.Errorf("%+v", h.Log[0])
	}
	patient := r.run("patient", "hang", checked("exit 1", func(h *apicontainer.HealthConfig) {
		h.StartPeriod, h.StartInterval = time.Hour, 5*time.Millisecond
	}))
	r.eventually("five tries", func() bool { return len(r.health(patient).Log) == 5 })
	if h := r.health(patient); h.Status != apicontainer.Starting || h.FailingStreak != 0 {
		t.Errorf("in its start period: %+v", h)
	}
	slow := r.run("slow", "hang", checked("hang", func(h *apicontainer.HealthConfig) { h.Timeout, h.Retries = 20*time.Millisecond, 1 }))
	r.becomes(slow, apicontainer.Unhealthy)
	if h := r.health(slow); h.Log[0].ExitCode != -1 || !strings.HasPrefix(h.Log[0].Output, "Health check exceeded timeout (20ms)") {
		t.Errorf("%+v", h.Log[0])
	}

	for id, want := range map[string][]string{
		good: {"health_status: healthy"}, bad: {"health_status: unhealthy"}, patient: nil,
	} {
		if got := r.happened(id, "health_status"); !slices.Equal(got, want) {
			t.Errorf("events: %v, not %v", got, want)
		}
		if got := r.happened(id, "exec_"); len(got) > 0 || len(r.inspect(id).ExecIDs) > 0 {
			t.Errorf("checks are nobody's execs: %v", got)
		}
	}
	for filter, want := range map[string]int{"healthy": 1, "unhealthy": 3, "starting": 1, "none": 1} {
		list, err := r.e.List(r.ctx(), false, false, 0, map[string][]string{"health": {filter}})
		if err != nil || len(list) != want {
			t.Errorf("%s: %d %v", filter, len(list), err)
		}
		for _, c := range list {
			text := map[string]string{"healthy": "(healthy)", "unhealthy": "(unhealthy)", "starting": "(health: starting)"}[filter]
			if !strings.HasSuffix(c.Status, text) || string(c.Health.Status) != filter {
				t.Errorf("%q %+v", c.Status, c.Health)
			}
		}
	}

	// It pauses with the container, and ends with the run.
	if err := r.e.Pause(r.ctx(), good); err != nil {
		t.Fatal(err)
	}
	if _, err := r.e.Stop(r.ctx(), bad, engine.StopOptions{Timeout: new(int)}); err != nil {
		t.Fatal(err)
	}
	h := r.health(bad)
	time.Sleep(30 * time.Millisecond) // several intervals
	if again := r.health(bad); again.Status != apicontainer.Unhealthy || len(again.Log) != len(h.Log) || !again.Log[len(again.Log)-1].Start.Equal(h.Log[len(h.Log)-1].Start) {
		t.Errorf("tried after its end: %+v", again)
	}
	r.start(bad)
	if h := r.health(bad); h.Status == apicontainer.Healthy {
		t.Errorf("a new run: %+v", h)
	}
}

// An engine that takes over goes on with a check where the last one was: what it
// knew is there, one try follows another, and a try that was cut off is no more.
func TestHealthOutlivesTheEngine(t *testing.T) {
	r := newRig(t)
	good := r.run("good", "hang", checked("true"))
	hung := r.run("hung", "hang", checked("hang", func(h *apicontainer.HealthConfig) { h.Timeout = time.Hour }))
	r.becomes(good, apicontainer.Healthy)
	probes := func() (n int) {
		reply, err := r.bk.Current().List(r.ctx())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range reply.GetContainers() {
			if c.GetInit().GetProcess().GetContainer() == hung {
				n = len(c.GetExecs())
			}
		}
		return n
	}
	r.eventually("a try that hangs", func() bool { return probes() == 1 })
	before := r.health(good)
	for range 3 {
		r.restart()
		if h := r.health(good); h.Status != apicontainer.Healthy || len(h.Log) < len(before.Log) {
			t.Errorf("after a restart: %+v", h)
		}
		r.eventually("one try that hangs", func() bool { return probes() == 1 })
	}
	last := r.health(good).Log[len(r.health(good).Log)-1]
	r.eventually("it goes on", func() bool {
		log := r.health(good).Log
		return log[len(log)-1].Start.After(last.End)
	})
	log := r.health(good).Log
	for i := range log[1:] {
		if log[i+1].Start.Before(log[i].End) {
			t.Errorf("two at a time: %+v %+v", log[i], log[i+1])
		}
	}
}

// A container that asks so is restarted when it becomes unhealthy; one that was
// stopped is not.
func TestRestartWhenUnhealthy(t *testing.T) {
	r := newRig(t)
	id := r.run("ill", "hang", checked("exit 1"), func(c *apicontainer.Config, _ *apicontainer.HostConfig) {
		c.Labels = map[string]string{"caisson.restart-unhealthy": "true"}
		zero := 0
		c.StopTimeout = &zero
	})
	r.eventually("three restarts", func() bool { return r.inspect(id).RestartCount >= 3 })
	if _, err := r.e.Stop(r.ctx(), id, engine.StopOptions{Timeout: new(int)}); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is stopped", func() bool {
		if r.status(id) == "running" {
			_, _ = r.e.Stop(r.ctx(), id, engine.StopOptions{Timeout: new(int)}) // it was being restarted
			return false
		}
		return true
	})
	if got := r.happened(id, string(apievents.ActionRestart)); len(got) < 3 {
		t.Errorf("events: %v", got)
	}
	if err := r.e.Remove(r.ctx(), id, engine.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
}

func TestHealthIsChecked(t *testing.T) {
	r := newRig(t)
	for _, h := range []apicontainer.HealthConfig{
		{Test: []string{"WHAT", "x"}}, {Test: []string{"CMD"}}, {Test: []string{"CMD", "x"}, Interval: 1}, {Test: []string{"CMD", "x"}, Retries: -1},
	} {
		if _, err := r.e.Create(r.ctx(), engine.CreateRequest{Config: &apicontainer.Config{Image: "img", Healthcheck: &h}}); err == nil {
			t.Errorf("%+v", h)
		}
	}
	id := r.run("none", "hang", func(c *apicontainer.Config, _ *apicontainer.HostConfig) {
		c.Healthcheck = &apicontainer.HealthConfig{Test: []string{"NONE"}}
	})
	if h := r.inspect(id).State.Health; h != nil {
		t.Errorf("%+v", h)
	}
}

package engine_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	apievents "github.com/moby/moby/api/types/events"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/backend/fake"
	"github.com/caisson-engine/caisson/engine/dockerapi"
	"github.com/caisson-engine/caisson/engine/enginetest"
	"github.com/caisson-engine/caisson/engine/logs"
)

var _ dockerapi.Engine = (*engine.Engine)(nil)

// rig is an engine on fakes.
type rig struct {
	t   *testing.T
	e   *engine.Engine
	img *enginetest.Images
	net *enginetest.Network
	bk  *enginetest.Launcher
	cfg engine.Config
}

// newRig starts one that ends with the test.
func newRig(t *testing.T, change ...func(*engine.Config, *enginetest.Launcher)) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{
		t: t, img: enginetest.NewImages(filepath.Join(dir, "roots")), net: &enginetest.Network{Dir: filepath.Join(dir, "net")},
		bk: &enginetest.Launcher{Options: fake.Options{StateFile: filepath.Join(dir, "fake.json")}},
	}
	// The fake's containers have this host's system, whatever that is; specs are Linux's.
	if runtime.GOOS != "linux" {
		t.Skip("needs linux: the default seccomp profile can be made there only")
	}
	r.cfg = engine.Config{
		DataRoot: filepath.Join(dir, "data"), ExecRoot: filepath.Join(dir, "exec"), HostID: "test", BootID: "boot1",
		Launcher: r.bk, Images: r.img, Network: r.net, Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
	}
	for _, f := range change {
		f(&r.cfg, r.bk)
	}
	r.boot()
	t.Cleanup(func() { r.close(); r.bk.Kill() })
	return r
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func (r *rig) boot() {
	r.t.Helper()
	var err error
	if r.e, err = engine.New(r.cfg); err != nil {
		r.t.Fatal(err)
	}
	if err := r.e.Restore(context.Background()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) close() {
	if r.e == nil {
		return
	}
	if err := r.e.Close(); err != nil {
		r.t.Error(err)
	}
	r.e = nil
}

// reboot ends the engine as a clean stop does, and starts another.
func (r *rig) restart() {
	r.t.Helper()
	r.close()
	r.boot()
}

func (r *rig) ctx() context.Context { return r.t.Context() }

// create makes a container that runs a command of the fake.
func (r *rig) create(name, cmd string, change ...func(*apicontainer.Config, *apicontainer.HostConfig)) string {
	r.t.Helper()
	c := &apicontainer.Config{Image: "img", AttachStdout: true}
	if cmd != "" {
		c.Cmd = []string{"sh", "-c", cmd}
	}
	h := &apicontainer.HostConfig{}
	for _, f := range change {
		f(c, h)
	}
	resp, err := r.e.Create(r.ctx(), engine.CreateRequest{Name: name, Config: c, HostConfig: h})
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.ID
}

func (r *rig) start(id string) {
	r.t.Helper()
	if _, err := r.e.Start(r.ctx(), id); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) run(name, cmd string, change ...func(*apicontainer.Config, *apicontainer.HostConfig)) string {
	r.t.Helper()
	id := r.create(name, cmd, change...)
	r.start(id)
	return id
}

func (r *rig) wait(id string, cond engine.WaitCondition) engine.Exit {
	r.t.Helper()
	ch, err := r.e.Wait(r.ctx(), id, cond)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.receive(ch)
}

func (r *rig) receive(ch <-chan engine.Exit) engine.Exit {
	r.t.Helper()
	select {
	case x, ok := <-ch:
		if !ok {
			r.t.Fatal("the wait ended without an exit")
		}
		return x
	case <-time.After(20 * time.Second):
		r.t.Fatal("nothing ended")
		panic("unreachable")
	}
}

func (r *rig) inspect(id string) apicontainer.InspectResponse {
	r.t.Helper()
	in, err := r.e.Inspect(r.ctx(), id, false)
	if err != nil {
		r.t.Fatal(err)
	}
	return in
}

// eventually waits for a condition that something else brings about.
func (r *rig) eventually(what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("never: %s", what)
		}
	}
}

func (r *rig) status(id string) string {
	in, err := r.e.Inspect(r.ctx(), id, false)
	if errdefs.IsNotFound(err) {
		return "gone"
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return string(in.State.Status)
}

// nothingLeft checks that no part of any container is there.
func (r *rig) nothingLeft() {
	r.t.Helper()
	r.eventually("no root left", func() bool { l, _ := r.img.Roots(r.ctx()); return len(l) == 0 })
	if l := r.net.Held(); len(l) > 0 {
		r.t.Errorf("networks left: %v", l)
	}
	reply, err := r.bk.Current().List(r.ctx())
	if err != nil {
		r.t.Fatal(err)
	}
	if len(reply.GetContainers()) > 0 || len(reply.GetSandboxes()) > 0 {
		r.t.Errorf("left in the backend: %v", reply)
	}
	if dirs, _ := filepath.Glob(filepath.Join(r.cfg.DataRoot, "containers", "*")); len(dirs) > 0 {
		r.t.Errorf("directories left: %v", dirs)
	}
}

type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func autoRemove(_ *apicontainer.Config, h *apicontainer.HostConfig) { h.AutoRemove = true }

func ready(bool) error { return nil }

func TestRunAsDockerDoes(t *testing.T) {
	r := newRig(t)
	id := r.create("", "echo out; echo err >&2; exit 7", autoRemove)
	var out, errOut buffer
	attached := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- r.e.Attach(r.ctx(), id, engine.AttachOptions{Stream: true, Stdout: &out, Stderr: &errOut, Ready: func(bool) error { close(attached); return nil }})
	}()
	<-attached
	gone, err := r.e.Wait(r.ctx(), id, apicontainer.WaitConditionRemoved)
	if err != nil {
		t.Fatal(err)
	}
	r.start(id)
	if x := r.receive(gone); x.Code != 7 {
		t.Errorf("exit code %d, want 7", x.Code)
	}
	if err := <-done; err != nil {
		t.Errorf("attach: %v", err)
	}
	if out.String() != "out\n" || errOut.String() != "err\n" {
		t.Errorf("got %q and %q", out.String(), errOut.String())
	}
	if s := r.status(id); s != "gone" {
		t.Errorf("the container is %s", s)
	}
	r.nothingLeft()
}

func TestStates(t *testing.T) {
	r := newRig(t)
	id := r.create("web", "")
	if s := r.status(id); s != "created" {
		t.Fatal(s)
	}
	r.start(id)
	if again, err := r.e.Start(r.ctx(), "web"); err != nil || !again {
		t.Errorf("second start: %v %v", again, err)
	}
	in := r.inspect("web")
	if !in.State.Running || in.State.StartedAt == "" || in.Name != "/web" || in.NetworkSettings.Networks["bridge"].IPAddress.String() == "" {
		t.Error(enginetest.Dump(in))
	}
	if err := r.e.Pause(r.ctx(), id); err != nil {
		t.Fatal(err)
	}
	if s := r.status(id); s != "paused" {
		t.Fatal(s)
	}
	if err := r.e.Pause(r.ctx(), id); !errdefs.IsConflict(err) {
		t.Errorf("second pause: %v", err)
	}
	if err := r.e.Unpause(r.ctx(), id); err != nil {
		t.Fatal(err)
	}
	err := r.e.Remove(r.ctx(), id, engine.RemoveOptions{})
	if want := `cannot remove container "/web": container is running: stop the container before removing or force remove`; err == nil || !strings.HasPrefix(err.Error(), want) || !errdefs.IsConflict(err) {
		t.Errorf("remove of a running container: %v", err)
	}
	zero := 0
	if already, err := r.e.Stop(r.ctx(), id, engine.StopOptions{Timeout: &zero}); err != nil || already {
		t.Fatal(already, err)
	}
	if in := r.inspect(id); in.State.Status != "exited" || in.State.ExitCode != 137 {
		t.Error(enginetest.Dump(in.State))
	}
	if already, err := r.e.Stop(r.ctx(), id, engine.StopOptions{}); err != nil || !already {
		t.Error(already, err)
	}
	if err := r.e.Kill(r.ctx(), id, ""); !errdefs.IsConflict(err) {
		t.Errorf("kill of a stopped container: %v", err)
	}
	r.start(id)
	if err := r.e.Remove(r.ctx(), id, engine.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.e.Inspect(r.ctx(), id, false); !errdefs.IsNotFound(err) || !strings.HasPrefix(err.Error(), "No such container: ") {
		t.Error(err)
	}
	r.nothingLeft()
}

func TestNames(t *testing.T) {
	r := newRig(t)
	a := r.create("aa", "")
	b := r.create("", "")
	if n := r.inspect(b).Name; !strings.Contains(n, "_") {
		t.Errorf("name %q", n)
	}
	_, err := r.e.Create(r.ctx(), engine.CreateRequest{Name: "/aa", Config: &apicontainer.Config{Image: "img"}})
	want := `Conflict. The container name "/aa" is already in use by container "` + a + `". You have to remove (or rename) that container to be able to reuse that name.`
	if !errdefs.IsConflict(err) || !strings.HasPrefix(err.Error(), want) {
		t.Error(err)
	}
	for _, bad := range []string{"-a", "ä", "a/b", "x y", strings.Repeat("x", 300)} {
		if _, err := r.e.Create(r.ctx(), engine.CreateRequest{Name: bad, Config: &apicontainer.Config{Image: "img"}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("name %q: %v", bad, err)
		}
	}
	if err := r.e.Rename(r.ctx(), a, "cc"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.e.Inspect(r.ctx(), "aa", false); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := r.e.Rename(r.ctx(), b, "cc"); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	r.create("aa", "") // free again
	r.restart()
	if got := r.inspect("cc").ID; got != a {
		t.Errorf("cc is %s", got)
	}
	if got := r.inspect(a[:12]).ID; got != a {
		t.Errorf("%s is %s", a[:12], got)
	}
}

func TestStartFailures(t *testing.T) {
	r := newRig(t)
	for cmd, want := range map[string]int{"nonesuch": 127, "noexec": 126} {
		id := r.create("", "", func(c *apicontainer.Config, _ *apicontainer.HostConfig) { c.Cmd = []string{cmd} })
		attached, done := make(chan struct{}), make(chan error, 1)
		go func() {
			done <- r.e.Attach(r.ctx(), id, engine.AttachOptions{Stream: true, Stdout: io.Discard, Ready: func(bool) error { close(attached); return nil }})
		}()
		<-attached
		began := time.Now()
		_, err := r.e.Start(r.ctx(), id)
		if err := <-done; err != nil || time.Since(began) > 5*time.Second {
			t.Errorf("attach to what does not start: %v after %s", err, time.Since(began))
		}
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "failed to create task for container") || !strings.Contains(err.Error(), cmd) {
			t.Errorf("%s: %v", cmd, err)
		}
		in := r.inspect(id)
		if in.State.ExitCode != want || in.State.Status != "created" || !strings.Contains(in.State.Error, cmd) {
			t.Errorf("%s: %s", cmd, enginetest.Dump(in.State))
		}
		if err := r.e.Remove(r.ctx(), id, engine.RemoveOptions{}); err != nil {
			t.Error(err)
		}
	}
	id := r.create("", "", autoRemove)
	r.net.Fail = map[string]error{"Attach": errors.New("no more addresses")}
	if _, err := r.e.Start(r.ctx(), id); err == nil || !strings.Contains(err.Error(), "no more addresses") {
		t.Error(err)
	}
	if s := r.status(id); s != "gone" {
		t.Errorf("the container is %s", s)
	}
	r.nothingLeft()
}

func TestCreateFailsWithoutTrace(t *testing.T) {
	r := newRig(t)
	for name, change := range map[string]func(*apicontainer.Config, *apicontainer.HostConfig){
		"no image":   func(c *apicontainer.Config, _ *apicontainer.HostConfig) { c.Image = "nonesuch" },
		"memory":     func(_ *apicontainer.Config, h *apicontainer.HostConfig) { h.Memory = 1 },
		"capability": func(_ *apicontainer.Config, h *apicontainer.HostConfig) { h.CapAdd = []string{"FLY"} },
		"level":      func(_ *apicontainer.Config, h *apicontainer.HostConfig) { h.Isolation = "vm" },
		"signal":     func(c *apicontainer.Config, _ *apicontainer.HostConfig) { c.StopSignal = "SIGNOPE" },
		"bind":       func(_ *apicontainer.Config, h *apicontainer.HostConfig) { h.Binds = []string{"/x:relative"} },
		"restart, rm": func(_ *apicontainer.Config, h *apicontainer.HostConfig) {
			h.AutoRemove, h.RestartPolicy.Name = true, "always"
		},
		"log driver":   func(_ *apicontainer.Config, h *apicontainer.HostConfig) { h.LogConfig.Type = "nonesuch" },
		"volumes from": func(_ *apicontainer.Config, h *apicontainer.HostConfig) { h.VolumesFrom = []string{"nonesuch"} },
		"join":         func(_ *apicontainer.Config, h *apicontainer.HostConfig) { h.PidMode = "container:nonesuch" },
		"sysctl": func(_ *apicontainer.Config, h *apicontainer.HostConfig) {
			h.Sysctls = map[string]string{"kernel.panic": "1"}
		},
	} {
		c, h := &apicontainer.Config{Image: "img"}, &apicontainer.HostConfig{}
		change(c, h)
		_, err := r.e.Create(r.ctx(), engine.CreateRequest{Name: "xx", Config: c, HostConfig: h})
		if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.img.Fail = map[string]error{"Prepare": errors.New("disk full")}
	if _, err := r.e.Create(r.ctx(), engine.CreateRequest{Name: "xx", Config: &apicontainer.Config{Image: "img"}}); err == nil {
		t.Error("a root that could not be made was no error")
	}
	r.img.Fail = nil
	r.create("xx", "") // the name is free
	if l, _ := r.img.Roots(r.ctx()); len(l) != 1 {
		t.Errorf("roots: %v", l)
	}
}

func TestExec(t *testing.T) {
	r := newRig(t)
	id := r.run("", "")
	x, err := r.e.ExecCreate(r.ctx(), id, apicontainer.ExecCreateRequest{Cmd: []string{"sh", "-c", "echo hello; env FROM; exit 3"}, AttachStdout: true, AttachStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	var out buffer
	o := engine.ExecStartOptions{AttachOptions: engine.AttachOptions{Stdout: &out, Stderr: &out, Ready: ready}}
	if err := r.e.ExecStart(r.ctx(), x, o); err != nil {
		t.Fatal(err)
	}
	if out.String() != "hello\nimage\n" {
		t.Errorf("got %q", out.String())
	}
	r.eventually("the exec's exit code", func() bool {
		in, err := r.e.ExecInspect(r.ctx(), x)
		return err == nil && !in.Running && in.ExitCode != nil && *in.ExitCode == 3
	})
	if err := r.e.ExecStart(r.ctx(), x, o); !errdefs.IsConflict(err) {
		t.Errorf("second start: %v", err)
	}
	bad, err := r.e.ExecCreate(r.ctx(), id, apicontainer.ExecCreateRequest{Cmd: []string{"nonesuch"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.e.ExecStart(r.ctx(), bad, o); err == nil || !strings.Contains(err.Error(), "OCI runtime exec failed") {
		t.Error(err)
	}
	if in, _ := r.e.ExecInspect(r.ctx(), bad); in.ExitCode == nil || *in.ExitCode != 127 {
		t.Error(enginetest.Dump(in))
	}
	r.restart()
	if in, err := r.e.ExecInspect(r.ctx(), x); err != nil || in.ExitCode == nil || *in.ExitCode != 3 {
		t.Errorf("after a restart of the engine: %v %s", err, enginetest.Dump(in))
	}
	if err := r.e.Remove(r.ctx(), id, engine.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.e.ExecInspect(r.ctx(), x); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestLogs(t *testing.T) {
	r := newRig(t)
	id := r.run("", "echo one; echo two >&2; echo three")
	r.wait(id, "")
	read := func(o engine.LogsOptions) (lines []string) {
		t.Helper()
		if err := r.e.Logs(r.ctx(), id, o, ready, func(rec logs.Record) error {
			lines = append(lines, strings.TrimSpace(string(rec.Line)))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return lines
	}
	if got := read(engine.LogsOptions{Stdout: true, Stderr: true, Tail: -1, Follow: true}); !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Error(got)
	}
	if got := read(engine.LogsOptions{Stdout: true, Tail: 1}); !slices.Equal(got, []string{"three"}) {
		t.Error(got)
	}
	if err := r.e.Logs(r.ctx(), id, engine.LogsOptions{}, ready, nil); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestStdinAndDetach(t *testing.T) {
	r := newRig(t)
	id := r.create("", "cat", func(c *apicontainer.Config, _ *apicontainer.HostConfig) { c.OpenStdin, c.StdinOnce = true, true })
	var out buffer
	attached := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- r.e.Attach(r.ctx(), id, engine.AttachOptions{Stream: true, Stdin: strings.NewReader("words"), Stdout: &out, Ready: func(bool) error { close(attached); return nil }})
	}()
	<-attached
	r.start(id)
	if x := r.wait(id, ""); x.Code != 0 {
		t.Error(x)
	}
	if err := <-done; err != nil || out.String() != "words" {
		t.Errorf("%v, %q", err, out.String())
	}

	tty := r.run("", "cat", func(c *apicontainer.Config, _ *apicontainer.HostConfig) { c.OpenStdin, c.Tty = true, true })
	in, w := io.Pipe()
	go func() {
		done <- r.e.Attach(r.ctx(), tty, engine.AttachOptions{Stream: true, Stdin: in, Stdout: io.Discard, DetachKeys: "ctrl-a,x", Ready: ready})
	}()
	for _, s := range []string{"a\x01b", "\x01", "x"} {
		if _, err := io.WriteString(w, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := r.status(tty); s != "running" {
		t.Errorf("after detaching the container is %s", s)
	}
}

func TestRestartPolicy(t *testing.T) {
	r := newRig(t)
	id := r.run("", "exit 1", func(_ *apicontainer.Config, h *apicontainer.HostConfig) {
		h.RestartPolicy = apicontainer.RestartPolicy{Name: "on-failure", MaximumRetryCount: 2}
	})
	r.eventually("two restarts", func() bool {
		in := r.inspect(id)
		return in.RestartCount == 2 && in.State.Status == "exited"
	})
	id = r.run("", "exit 0", func(_ *apicontainer.Config, h *apicontainer.HostConfig) { h.RestartPolicy.Name = "always" })
	r.eventually("a restart", func() bool { return r.inspect(id).RestartCount > 0 })
	r.eventually("a stop", func() bool {
		_, err := r.e.Stop(r.ctx(), id, engine.StopOptions{})
		return err == nil && r.status(id) == "exited"
	})
	r.restart()
	if s := r.status(id); s != "exited" {
		t.Errorf("a stopped container is %s after a restart of the engine", s)
	}
	if err := r.e.Restart(r.ctx(), id, engine.StopOptions{}); err != nil {
		t.Error(err)
	}
}

func TestRestartOfAutoRemove(t *testing.T) {
	r := newRig(t)
	id := r.run("", "", autoRemove)
	zero := 0
	if err := r.e.Restart(r.ctx(), id, engine.StopOptions{Timeout: &zero}); err != nil {
		t.Fatal(err)
	}
	if s := r.status(id); s != "running" {
		t.Errorf("it is %s", s)
	}
}

func TestEvents(t *testing.T) {
	r := newRig(t)
	since := time.Now()
	id := r.run("ev", "exit 4")
	r.wait(id, "")
	if err := r.e.Remove(r.ctx(), id, engine.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	ch, err := r.e.Events(r.ctx(), since, time.Now(), map[string][]string{"container": {"ev"}, "type": {"container"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for m := range ch {
		got = append(got, string(m.Action))
		if m.Action == apievents.ActionDie && m.Actor.Attributes["exitCode"] != "4" || m.Actor.Attributes["image"] != "img" || m.Scope != "local" {
			t.Error(enginetest.Dump(m))
		}
	}
	if want := []string{"create", "start", "die", "destroy"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestListAndPrune(t *testing.T) {
	r := newRig(t)
	running := r.run("run1", "", func(c *apicontainer.Config, _ *apicontainer.HostConfig) { c.Labels = map[string]string{"k": "v"} })
	done := r.run("done1", "exit 2")
	r.wait(done, "")
	for _, c := range []struct {
		all  bool
		f    dockerapi.Filters
		want []string
	}{
		{false, nil, []string{running}},
		{true, nil, []string{done, running}},
		{false, dockerapi.Filters{"exited": {"2"}}, []string{done}},
		{true, dockerapi.Filters{"label": {"k=v"}}, []string{running}},
		{true, dockerapi.Filters{"name": {"^done"}}, []string{done}},
		{true, dockerapi.Filters{"status": {"exited", "created"}}, []string{done}},
		{true, dockerapi.Filters{"since": {"run1"}}, []string{done}},
		{true, dockerapi.Filters{"ancestor": {"img"}, "id": {running[:8]}}, []string{running}},
	} {
		l, err := r.e.List(r.ctx(), c.all, false, 0, c.f)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range l {
			got = append(got, s.ID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v %v: got %v, want %v", c.all, c.f, got, c.want)
		}
	}
	if _, err := r.e.List(r.ctx(), true, false, 0, dockerapi.Filters{"nonesuch": {"x"}}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	rep, err := r.e.PruneContainers(r.ctx(), nil)
	if err != nil || !slices.Equal(rep.ContainersDeleted, []string{done}) || rep.SpaceReclaimed != 42 {
		t.Error(rep, err)
	}
}

func TestBackendDies(t *testing.T) {
	r := newRig(t)
	id := r.run("", "sleep 0.3; echo after; exit 5")
	var out buffer
	done := make(chan error, 1)
	go func() {
		done <- r.e.Attach(r.ctx(), id, engine.AttachOptions{Stream: true, Stdout: &out, Ready: ready})
	}()
	ch, err := r.e.Wait(r.ctx(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	r.bk.Kill()
	if x := r.receive(ch); x.Code != 5 {
		t.Errorf("exit %d, want 5", x.Code)
	}
	if r.bk.Launches != 2 {
		t.Errorf("%d launches", r.bk.Launches)
	}
	second := r.run("", "")
	if s := r.status(second); s != "running" {
		t.Error(s)
	}
}

func TestUpdate(t *testing.T) {
	r := newRig(t)
	id := r.run("", "")
	if _, err := r.e.Update(r.ctx(), id, apicontainer.UpdateConfig{Resources: apicontainer.Resources{Memory: 64 << 20, MemorySwap: 128 << 20}}); err != nil {
		t.Fatal(err)
	}
	s, err := r.e.Stats(r.ctx(), id, true)
	if err != nil || s.MemoryStats.Limit != 64<<20 {
		t.Error(err, enginetest.Dump(s.MemoryStats))
	}
	if _, err := r.e.Update(r.ctx(), id, apicontainer.UpdateConfig{Resources: apicontainer.Resources{Memory: 1}}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	r.restart()
	if m := r.inspect(id).HostConfig.Memory; m != 64<<20 {
		t.Errorf("memory %d", m)
	}
}

func TestInspectTellsTheDecision(t *testing.T) {
	r := newRig(t)
	id := r.create("", "")
	in := r.inspect(id)
	if in.HostConfig.Runtime != "fake/process" || in.HostConfig.Isolation != "process" || in.HostConfig.Annotations["caisson.level"] != "process" {
		t.Error(enginetest.Dump(in.HostConfig))
	}
	// A client copies what it saw.
	if _, err := r.e.Create(r.ctx(), engine.CreateRequest{Config: in.Config, HostConfig: in.HostConfig}); err != nil {
		t.Error(err)
	}
}

package engine_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/backend/fake"
	"github.com/caisson-engine/caisson/engine/enginetest"
)

// Environment of the engine that is killed: which point to die at, counted from
// 1, and where everything lives.
const (
	envCrashPoint = "CAISSON_TEST_CRASH_POINT"
	envCrashCount = "CAISSON_TEST_CRASH_COUNT"
	envCrashDir   = "CAISSON_TEST_CRASH_DIR"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envCrashDir); dir != "" {
		n, err := strconv.Atoi(os.Getenv(envCrashCount))
		if err != nil {
			panic(err)
		}
		var seen atomic.Int64 // points are reached by several goroutines
		crashLife(dir, func(point string) {
			if point != os.Getenv(envCrashPoint) {
				return
			}
			if seen.Add(1) == int64(n) {
				p, _ := os.FindProcess(os.Getpid())
				_ = p.Kill() // as nothing can catch
				select {}
			}
		})
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func crashConfig(dir string) (engine.Config, *enginetest.Launcher, *enginetest.Images, *enginetest.Network) {
	bk := &enginetest.Launcher{Options: fake.Options{StateFile: filepath.Join(dir, "fake.json")}}
	img := enginetest.NewImages(filepath.Join(dir, "roots"))
	net := &enginetest.Network{Dir: filepath.Join(dir, "net")}
	return engine.Config{
		DataRoot: filepath.Join(dir, "data"), ExecRoot: filepath.Join(dir, "exec"), HostID: "test", BootID: "boot1",
		Launcher: bk, Images: img, Network: net, Log: slog.New(slog.DiscardHandler),
	}, bk, img, net
}

// crashLife goes through every verb that has a crash point. Errors end it: the
// test that counts the points sees that one is missing.
func crashLife(dir string, crash func(string)) {
	cfg, _, _, _ := crashConfig(dir)
	cfg.Crash = crash
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	e, err := engine.New(cfg)
	check(err)
	ctx := context.Background()
	check(e.Restore(ctx))
	create := func(name string, cmd []string, change func(*apicontainer.Config, *apicontainer.HostConfig)) {
		c, h := &apicontainer.Config{Image: "img", Cmd: cmd, Volumes: map[string]struct{}{"/data": {}}}, &apicontainer.HostConfig{}
		change(c, h)
		_, err := e.Create(ctx, engine.CreateRequest{Name: name, Config: c, HostConfig: h})
		check(err)
	}
	create("life", []string{"hang"}, func(*apicontainer.Config, *apicontainer.HostConfig) {})
	_, err = e.Start(ctx, "life")
	check(err)
	_, err = e.Update(ctx, "life", apicontainer.UpdateConfig{Resources: apicontainer.Resources{Memory: 64 << 20, MemorySwap: 64 << 20}})
	check(err)
	zero := 0
	_, err = e.Stop(ctx, "life", engine.StopOptions{Timeout: &zero})
	check(err)
	check(e.Restart(ctx, "life", engine.StopOptions{}))
	check(e.Rename(ctx, "life", "lived"))
	check(e.Kill(ctx, "lived", "KILL"))
	ch, err := e.Wait(ctx, "lived", "")
	check(err)
	<-ch
	check(e.Remove(ctx, "lived", engine.RemoveOptions{Volumes: true}))
	create("once", []string{"sh", "-c", "exit 3"}, autoRemove)
	gone, err := e.Wait(ctx, "once", apicontainer.WaitConditionRemoved)
	check(err)
	_, err = e.Start(ctx, "once")
	check(err)
	<-gone
}

// afterCrash says what must be true of the container after a restore, where
// that is certain: the point, then its state.
var afterCrash = map[string]string{
	"create.intent#1":   "gone",
	"create.root#1":     "gone",
	"create.record#1":   "created",
	"start.intent#1":    "created",
	"start.network#1":   "created",
	"start.open#1":      "created",
	"start.created#1":   "created",
	"start.started#1":   "running",
	"start.done#1":      "running",
	"update.intent#1":   "running",
	"update.applied#1":  "running",
	"stop.intent#1":     "exited",
	"stop.signaled#1":   "exited",
	"kill.intent#1":     "running",
	"remove.intent#1":   "gone",
	"remove.released#1": "gone",
	"remove.root#1":     "gone",
	"remove.dir#1":      "gone",
	"remove.done#1":     "gone",
	"create.intent#2":   "gone",
	"create.record#2":   "created",
	"exit.recorded#3":   "gone", // of the container that is removed at its end
	"exit.network#3":    "gone",
	"exit.closed#3":     "gone",
	"start.started#3":   "gone",
	"remove.intent#2":   "gone",
	"remove.dir#2":      "gone",
}

func TestKilledAtEveryPoint(t *testing.T) {
	if testing.Short() {
		t.Skip("short: starts an engine process for each of many crash points")
	}
	newRig(t).close() // skips where it cannot be
	var mu sync.Mutex
	counts := map[string]int{}
	var order []string
	crashLife(t.TempDir(), func(p string) {
		mu.Lock()
		defer mu.Unlock()
		if counts[p]++; counts[p] <= 3 {
			order = append(order, p+"#"+strconv.Itoa(counts[p]))
		}
	})
	for at := range afterCrash {
		if !slices.Contains(order, at) {
			t.Errorf("crash point %s was never reached: %v", at, order)
		}
	}
	for _, at := range order {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			point, count, _ := strings.Cut(at, "#")
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), envCrashPoint+"="+point, envCrashCount+"="+count, envCrashDir+"="+dir)
			if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != -1 {
				t.Fatalf("the engine was not killed: %v\n%s", err, out)
			}
			checkRestored(t, at, dir)
		})
	}
}

// checkRestored boots an engine on what a killed one left, and checks that all
// agree.
func checkRestored(t *testing.T, at, dir string) {
	r := &rig{t: t}
	r.cfg, r.bk, r.img, r.net = crashConfig(dir)
	r.boot()
	t.Cleanup(func() { r.close(); r.bk.Kill() })

	settled := func() (apicontainer.Summary, bool) {
		l, err := r.e.List(r.ctx(), true, false, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(l) == 0 {
			return apicontainer.Summary{State: "gone"}, true
		}
		return l[0], len(l) == 1
	}
	if want, ok := afterCrash[at]; ok {
		r.eventually(at+": state "+want, func() bool { s, one := settled(); return one && string(s.State) == want })
	}
	agree := func() bool {
		s, one := settled()
		if !one || s.State == "removing" {
			return false
		}
		roots, _ := r.img.Roots(r.ctx())
		list, err := r.bk.Current().List(r.ctx())
		if err != nil {
			t.Fatal(err)
		}
		dirs, _ := filepath.Glob(filepath.Join(r.cfg.DataRoot, "containers", "*"))
		volumes, _ := filepath.Glob(filepath.Join(r.cfg.DataRoot, "volumes", "*"))
		records, alive := 1, 0
		if s.State == "gone" {
			records = 0
		}
		if s.State == "running" {
			alive = 1
		}
		return len(roots) == records && len(dirs) == records && len(volumes) == records &&
			len(r.net.Held()) == alive && len(list.GetContainers()) == alive && len(list.GetSandboxes()) == alive
	}
	r.eventually("records, roots, directories, networks and backend agree", agree)

	// Everything can be used again, under the same names.
	if s, _ := settled(); s.State != "gone" {
		if err := r.e.Remove(r.ctx(), s.ID, engine.RemoveOptions{Force: true, Volumes: true}); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"life", "lived", "once"} {
		r.run(name, "")
		if err := r.e.Remove(r.ctx(), name, engine.RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
	r.nothingLeft()
}

package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/caisson-engine/caisson/engine"
)

// TestVerbsAtOnce lets clients do anything to the same few containers at the
// same time, while the backend dies again and again. No verb may fail in a way
// that is not a client's business, and when all is quiet everything agrees.
func TestVerbsAtOnce(t *testing.T) {
	r := newRig(t)
	const clients, names = 6, 3
	verbs := 120
	if testing.Short() {
		verbs = 30
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	zero := 0
	var wg sync.WaitGroup
	for i := range clients {
		seed := rand.Uint64()
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for range verbs {
				name := fmt.Sprintf("n%d", rnd.IntN(names))
				var err error
				what := rnd.IntN(11)
				switch what {
				case 0, 1, 2:
					cmds := []string{"hang", "exit 3", "sleep 0.01", "echo x; exit 0", "nonesuch"}
					h := &apicontainer.HostConfig{AutoRemove: rnd.IntN(2) == 0}
					if !h.AutoRemove && rnd.IntN(3) == 0 {
						h.RestartPolicy.Name = "on-failure"
					}
					_, err = r.e.Create(ctx, engine.CreateRequest{Name: name, HostConfig: h, Config: &apicontainer.Config{
						Image: "img", Cmd: []string{"sh", "-c", cmds[rnd.IntN(len(cmds))]}, Volumes: map[string]struct{}{"/v": {}},
					}})
				case 3, 4:
					_, err = r.e.Start(ctx, name)
				case 5:
					_, err = r.e.Stop(ctx, name, engine.StopOptions{Timeout: &zero})
				case 6:
					err = r.e.Kill(ctx, name, "KILL")
				case 7:
					err = r.e.Remove(ctx, name, engine.RemoveOptions{Force: rnd.IntN(2) == 0, Volumes: true})
				case 8:
					err = r.e.Restart(ctx, name, engine.StopOptions{Timeout: &zero})
				case 9:
					if err = r.e.Pause(ctx, name); err == nil {
						err = r.e.Unpause(ctx, name)
					}
				case 10:
					var x string
					if x, err = r.e.ExecCreate(ctx, name, apicontainer.ExecCreateRequest{Cmd: []string{"true"}}); err == nil {
						err = r.e.ExecStart(ctx, x, engine.ExecStartOptions{Detach: true})
					}
				}
				switch {
				case err == nil, errdefs.IsNotFound(err), errdefs.IsConflict(err), errdefs.IsInvalidArgument(err), errdefs.IsFailedPrecondition(err):
				default:
					t.Errorf("verb %d: %v", what, err)
				}
			}
		})
	}
	stop, killed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(killed)
		for {
			select {
			case <-stop:
				return
			case <-time.After(150 * time.Millisecond):
				r.bk.Kill()
			}
		}
	}()
	wg.Wait()
	close(stop)
	<-killed

	for i := range names {
		name := fmt.Sprintf("n%d", i)
		if err := r.e.Remove(ctx, name, engine.RemoveOptions{Force: true, Volumes: true}); err != nil && !errdefs.IsNotFound(err) {
			t.Errorf("remove %s (%s): %v", name, r.status(name), err)
		}
	}
	r.eventually("all is gone", func() bool {
		l, err := r.e.List(ctx, true, false, 0, nil)
		return err == nil && len(l) == 0 && r.bk.Current() != nil
	})
	r.nothingLeft()
	if v, _ := filepath.Glob(filepath.Join(r.cfg.DataRoot, "volumes", "*")); len(v) > 0 {
		t.Errorf("volumes left: %v", v)
	}
}

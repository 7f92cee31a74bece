//go:build linux

package runtime

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recoverAll opens a new Runtime in place of g's and recovers.
func (g *rig) recoverAll() map[string]Held {
	g.t.Helper()
	list, err := g.r.Recover(g.ctx())
	if err != nil {
		g.t.Fatal(err)
	}
	held := map[string]Held{}
	for _, h := range list {
		held[h.Key] = h
	}
	return held
}

func TestBackendKilled(t *testing.T) {
	g := newRig(t)
	keeper := g.r.KeeperPID()
	if err := g.r.Close(); err != nil {
		t.Fatal(err)
	}
	killedBackend(t, g)
	g.r = g.open()
	if got := g.r.KeeperPID(); got != keeper {
		t.Errorf("keeper %d, was %d", got, keeper)
	}
	checkRecovered(t, g, g.recoverAll(), true)
}

// TestBothKilled kills the keeper too, so that only its journal and the kernel
// know of the containers. What is not started is gone, and so are terminals.
func TestBothKilled(t *testing.T) {
	g := newRig(t)
	keeper := g.r.KeeperPID()
	if err := g.r.Close(); err != nil {
		t.Fatal(err)
	}
	killedBackend(t, g)
	kill(t, keeper)
	g.r = g.open()
	checkRecovered(t, g, g.recoverAll(), false)
}

func checkRecovered(t *testing.T, g *rig, held map[string]Held, keeperLived bool) {
	t.Helper()
	for _, key := range []string{"running", "created", "terminal", "ending"} {
		if held[key].Process == nil {
			t.Fatalf("%s is lost: %v", key, held)
		}
	}
	running := held["running"].Process
	if !running.Started() {
		t.Error("the running container counts as not started")
	}
	if err := running.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	exit := g.wait(running)
	lost := exit.Unknown && !ProbeFeatures().PidfdExit && !keeperLived
	if exit.Code != 9 && !lost {
		t.Errorf("running: %+v, want 9", exit)
	}
	if exit := g.wait(held["ending"].Process); exit.Code != 8 {
		t.Errorf("ending: %+v", exit)
	}
	created := held["created"].Process
	if !keeperLived {
		// Nobody could ever have started it.
		if exit := g.wait(created); exit.Code == 5 {
			t.Errorf("created: %+v", exit)
		}
		return
	}
	if created.Started() {
		t.Fatal("the created container counts as started")
	}
	if err := created.Start(g.ctx()); err != nil {
		t.Fatal(err)
	}
	if exit := g.wait(created); exit.Code != 5 {
		t.Errorf("created: %+v", exit)
	}
	pipe := held["running"].Files["pipe"]
	if pipe == nil {
		t.Fatal("the pipe is lost")
	}
	defer pipe.Close()
	if text, err := io.ReadAll(pipe); err != nil || string(text) != "kept" {
		t.Errorf("pipe: %q, %v", text, err)
	}
	terminal := held["terminal"].Process
	if _, err := terminal.Console().WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(terminal.Console())
	for _, want := range []string{"word\r\n", "got word\r\n"} {
		if line, err := r.ReadString('\n'); err != nil || line != want {
			t.Errorf("terminal: %q, %v, want %q", line, err, want)
		}
	}
	if exit := g.wait(terminal); exit.Code != 6 {
		t.Errorf("terminal: %+v", exit)
	}
}

func kill(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Until its socket and lock are free.
	for deadline := time.Now().Add(patience); syscall.Kill(pid, 0) == nil && !zombie(pid); {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not die", pid)
		}
	}
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// TestKeeperKilled kills the keeper again and again under running containers.
func TestKeeperKilled(t *testing.T) {
	g := newRig(t)
	if !ProbeFeatures().PidfdExit {
		t.Skip("needs Linux 6.15: before, exit codes die with the keeper")
	}
	root := busybox(t)
	fifo, fifow, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer fifow.Close()
	p, err := g.r.Create(g.ctx(), CreateOptions{Key: "long", Spec: ordinary(root, "/bin/sh", "-c", "read x; exit 42"), Stdin: fifo})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(g.ctx()); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		old := g.r.KeeperPID()
		kill(t, old)
		// At once: whoever asks waits for the next keeper.
		q, err := g.r.Exec(g.ctx(), ExecOptions{Key: "long/" + strconv.Itoa(i), Container: p, Process: ordinary(root, "/bin/sh", "-c", "exit 3").Process})
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Start(g.ctx()); err != nil {
			t.Fatal(err)
		}
		if exit := g.wait(q); exit.Code != 3 {
			t.Errorf("exec after kill %d: %+v", i, exit)
		}
		if err := q.Release(); err != nil {
			t.Error(err)
		}
		if now := g.r.KeeperPID(); now == old {
			t.Errorf("still keeper %d", now)
		}
	}
	// One that ends while there is no keeper at all.
	g.r.mu.Lock()
	stopped := g.r.link.pid
	g.r.mu.Unlock()
	if err := syscall.Kill(stopped, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := fifow.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	waitDead(t, p)
	kill(t, stopped)
	if exit := g.wait(p); exit.Code != 42 || exit.Unknown {
		t.Errorf("got %+v, want 42", exit)
	}
}

// waitDead waits for a process to be dead, whether or not anyone was told.
func waitDead(t testing.TB, p *Process) {
	t.Helper()
	p.mu.Lock()
	fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	p.mu.Unlock()
	n, err := unix.Poll(fds, int(patience.Milliseconds()))
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(fds, int(patience.Milliseconds()))
	}
	if n != 1 || err != nil {
		t.Fatalf("it does not die: %v", err)
	}
}

// TestKeeperKilledWhileStarting kills keepers at all moments of many starts.
func TestKeeperKilledWhileStarting(t *testing.T) {
	g := newRig(t)
	if !ProbeFeatures().PidfdExit {
		t.Skip("needs Linux 6.15: before, exit codes die with the keeper")
	}
	root := busybox(t)
	stop := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		tick := time.NewTicker(70 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if pid := g.r.KeeperPID(); pid > 0 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
	})
	for i := range 30 {
		key := fmt.Sprintf("k%d", i)
		p, err := g.r.Create(g.ctx(), CreateOptions{Key: key, Spec: ordinary(root, "/bin/sh", "-c", "exit 4")})
		if err != nil {
			if strings.Contains(err.Error(), errKeeperGone.Error()) {
				continue // three keepers in a row died under it
			}
			t.Fatal(err)
		}
		if err := p.Start(g.ctx()); err != nil {
			t.Fatal(err)
		}
		if exit := g.wait(p); exit.Code != 4 {
			t.Errorf("%s: %+v", key, exit)
		}
		if err := p.Release(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	killer.Wait()
}

// TestNothingLeft starts many containers, and looks at what they leave.
func TestNothingLeft(t *testing.T) {
	g := newRig(t)
	root := busybox(t)
	round := func(n int) {
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range n {
					p, err := g.r.Create(context.Background(), CreateOptions{Key: fmt.Sprintf("n%d-%d", w, i), Spec: ordinary(root, "true")})
					if err != nil {
						t.Error(err)
						return
					}
					if i%2 == 0 {
						if err := p.Start(context.Background()); err != nil {
							t.Error(err)
						}
						<-p.Done()
					}
					if err := p.Release(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	round(3)
	before := g.holdings()
	round(40)
	// The last of them may still be dying.
	for deadline := time.Now().Add(patience); g.holdings().more(before) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if after := g.holdings(); after.more(before) {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if held := g.recoverAll(); len(held) != 0 {
		t.Errorf("still held: %v", held)
	}
}

// holdings is what could leak.
type holdings struct{ ourFDs, keeperFDs, keeperChildren, mounts int }

func (h holdings) more(than holdings) bool {
	return h.ourFDs > than.ourFDs || h.keeperFDs > than.keeperFDs || h.keeperChildren > than.keeperChildren || h.mounts > than.mounts
}

func (g *rig) holdings() holdings {
	g.t.Helper()
	count := func(dir string) int {
		names, err := filepath.Glob(dir + "/*")
		if err != nil {
			g.t.Fatal(err)
		}
		return len(names)
	}
	keeper := fmt.Sprintf("/proc/%d", g.r.KeeperPID())
	children, err := os.ReadFile(fmt.Sprintf("%s/task/%d/children", keeper, g.r.KeeperPID()))
	if err != nil {
		g.t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		g.t.Fatal(err)
	}
	return holdings{count("/proc/self/fd"), count(keeper + "/fd"), len(strings.Fields(string(children))), strings.Count(string(mounts), g.cfg.Dir)}
}

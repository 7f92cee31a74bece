package restart

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// health is a container's, as inspect tells it.
type health struct {
	Status        string
	FailingStreak int
	Log           []struct {
		Start, End time.Time
		ExitCode   int
		Output     string
	}
}

func healthOf(t *testing.T, e *harness.Engine, name string) (h health) {
	t.Helper()
	if err := json.Unmarshal([]byte(e.Must("inspect", "-f", "{{json .State.Health}}", name)), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

// A health check goes on through kills of engine and backend: what was known is
// known, tries never overlap, and what was cut off is not left running.
func TestHealthThroughKills(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	// Each try notes its begin and its end.
	e.Must("run", "-d", "--name", "hc", "--health-interval", "100ms", "--health-timeout", "20s",
		"--health-cmd", "echo begin $$ >>/tries; usleep 200000; echo end $$ >>/tries", "busybox", "sh", "-c", "touch /tries; sleep 1000")
	e.Until("it is healthy", func() bool { return healthOf(t, e, "hc").Status == "healthy" })
	for round, name := range []string{"caissond", "caisson-backend-linux", "caissond", "caisson-backend-linux"} {
		before := healthOf(t, e, "hc")
		e.Kill(name)
		e.WaitReady()
		if h := healthOf(t, e, "hc"); h.Status != "healthy" || len(h.Log) < len(before.Log) {
			t.Errorf("round %d: %s killed: %+v", round, name, h)
		}
		last := before.Log[len(before.Log)-1].End
		e.Until("it goes on", func() bool {
			log := healthOf(t, e, "hc").Log
			return log[len(log)-1].Start.After(last) && log[len(log)-1].ExitCode == 0
		})
	}
	open := 0
	for line := range strings.Lines(e.Must("exec", "hc", "cat", "/tries")) {
		switch strings.Fields(line)[0] {
		case "begin":
			open = 1 // one that was cut off has no end
		case "end":
			if open--; open < 0 {
				t.Fatalf("two tries at a time: %s\n%+v", e.Must("exec", "hc", "cat", "/tries"), healthOf(t, e, "hc"))
			}
		}
	}
	e.Until("no try is left", func() bool {
		n := strings.Count(e.Must("exec", "hc", "ps"), "usleep 200000")
		return n <= 1
	})
}

// Restart policies hold through kills of engine and backend, also while a back-off
// runs, and what a client stopped stays so.
func TestRestartPoliciesThroughKills(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	e.Must("run", "-d", "--name", "loop", "--restart", "always", "busybox", "sh", "-c", "usleep 50000; exit 1")
	e.Must("run", "-d", "--name", "stopped", "--restart", "always", "busybox", "sleep", "1000")
	e.Must("stop", "-t", "0", "stopped")
	count := func() (n int) {
		_, _ = fmt.Sscan(e.Must("inspect", "-f", "{{.RestartCount}}", "loop"), &n)
		return n
	}
	for _, name := range []string{"caissond", "caisson-backend-linux", "caissond"} {
		before := count()
		e.Kill(name)
		e.WaitReady()
		if now := count(); now < before {
			t.Errorf("%s killed: %d restarts, before %d", name, now, before)
		}
		e.Until("it is restarted again", func() bool { return count() > before })
	}
	if got := e.Must("inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "stopped"); got != "exited 0" {
		t.Errorf("what a client stopped: %s", got)
	}
	e.Must("update", "--restart", "no", "loop")
	e.Until("it is not restarted any more", func() bool {
		return e.Must("inspect", "-f", "{{.State.Status}}", "loop") == "exited"
	})
}

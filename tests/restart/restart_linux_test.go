package restart

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// processes are what is killed in turn. A machine's keeper is inside it; what of
// a machine is here ends with it (tests/vm).
var processes = map[string][]string{
	"":   {"caissond", "caisson-backend-linux", "caisson-keeper"},
	"vm": {"caissond", "caisson-backend-vm"},
}[harness.Level()]

// rounds is how often each process is killed.
const rounds = 10

// A container counts every 10 ms while each of our processes is killed with -9
// ten times. Every number is in the log once and in order, exec works again
// after each kill, and wait gives the exit code. How soon exec works depends on
// what else the machine does: the soak run, which has it for itself, demands the
// promised second.
func TestKillRing(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	id := e.Must("run", "-d", "--name", "counter", "busybox", "sh", "-c",
		`trap 'echo end; exit 17' TERM; i=0; while :; do echo $i; i=$((i+1)); usleep 10000; done`)
	var slowest time.Duration
	for round := range rounds {
		for _, name := range processes {
			e.Kill(name)
			start := time.Now()
			back(e, fmt.Sprintf("%s killed, round %d", name, round))
			d := time.Since(start)
			if d > time.Second && os.Getenv("CAISSON_SOAK") != "" {
				t.Errorf("round %d: exec works %v after %s was killed", round, d, name)
			}
			slowest = max(slowest, d)
		}
	}
	t.Logf("exec worked at most %v after a kill", slowest)
	wait := make(chan string, 1)
	go func() { wait <- e.Caisson("wait", "counter").Stdout }()
	e.Must("kill", "-s", "TERM", "counter")
	if got := strings.TrimSpace(<-wait); got != "17" {
		t.Errorf("wait says %q, want 17", got)
	}
	checkCount(t, e.Must("logs", "counter"))
	if got := e.Must("inspect", "-f", "{{.State.ExitCode}} {{.RestartCount}}", id); got != "17 0" {
		t.Errorf("inspect says %q", got)
	}
}

// back waits until exec works again.
func back(e *harness.Engine, what string) {
	e.Until("exec works: "+what, func() bool {
		r := e.Caisson("exec", "counter", "echo", "alive")
		return r.Code == 0 && r.Stdout == "alive\n"
	})
}

// checkCount wants 0, 1, 2, … and "end".
func checkCount(t *testing.T, log string) {
	t.Helper()
	lines := strings.Split(log, "\n")
	if lines[len(lines)-1] != "end" {
		t.Errorf("the log ends with %q", lines[len(lines)-1])
	}
	for i, line := range lines[:len(lines)-1] {
		if line != fmt.Sprint(i) {
			t.Fatalf("line %d of %d is %q", i, len(lines), line)
		}
	}
	if len(lines) < 20 {
		t.Errorf("only %d lines", len(lines))
	}
}

// What ends while a process of ours is dead is told when it is back.
func TestExitWhileDead(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	for i, name := range processes {
		c := fmt.Sprint("brief", i)
		e.Must("run", "-d", "--name", c, "busybox", "sh", "-c", "usleep 300000; echo last words; exit 23")
		e.Kill(name)
		e.Until("the engine answers", func() bool { return e.Caisson("version").Code == 0 })
		if got := e.Must("wait", c); got != "23" {
			t.Errorf("%s killed: wait says %q, want 23", name, got)
		}
		if got := e.Must("logs", c); got != "last words" {
			t.Errorf("%s killed: the log says %q", name, got)
		}
		e.Must("rm", c)
	}
}

// A client that is killed changes nothing for the container.
func TestClientKilled(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	cmd := e.Command("caisson", "run", "--name", "lonely", "busybox", "sh", "-c", "echo one; usleep 500000; echo two; exit 5")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := e.Must("wait", "lonely"); got != "5" {
		t.Errorf("wait says %q, want 5", got)
	}
	if got := e.Must("logs", "lonely"); got != "one\ntwo" {
		t.Errorf("the log says %q", got)
	}
}

// Stopping and starting the engine leaves containers running; a second engine
// on the same root is refused with the first one's pid.
func TestStopAndStart(t *testing.T) {
	e := harness.Start(t)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	e.Must("run", "-d", "--name", "steady", "busybox", "sleep", "1000")
	pid := e.Must("inspect", "-f", "{{.State.Pid}}", "steady")
	e.Stop()
	e.Boot()
	if got := e.Must("inspect", "-f", "{{.State.Pid}} {{.State.Running}}", "steady"); got != pid+" true" {
		t.Errorf("after a restart: %q, want %s true", got, pid)
	}
	if got := e.Must("exec", "steady", "echo", "here"); got != "here" {
		t.Errorf("exec says %q", got)
	}
}

package monitor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// TestMain is the monitor's main in the processes that a Client starts.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "monitor" {
		if err := Main(context.Background(), os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 4 && os.Args[1] == "leave" {
		if err := leaveProcess(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// leaveProcess is a runtime: it leaves a shell running a script. One whose script
// begins with exit has ended before the runtime does, which leaves it to be
// collected by who comes after.
func leaveProcess(script, pids string) error {
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	if strings.HasPrefix(script, "exit") {
		if err := unix.Waitid(unix.P_PID, p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			return err
		}
	}
	return os.WriteFile(pids, []byte(strconv.Itoa(p.Pid)), 0o600)
}

func client(t *testing.T, dir string) *Client {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := Open(Config{Dir: dir, Argv: []string{self, "monitor", dir}, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// leave calls leaveProcess.
func leave(dir, name, script string) Command {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	pids := filepath.Join(dir, name+".pid")
	return Command{Argv: []string{self, "leave", script, pids}, PIDFile: pids, Env: []string{"PATH=" + os.Getenv("PATH")}}
}

func exit(t *testing.T, c *Client, key string) int32 {
	t.Helper()
	x, err := c.Exit(key)
	if err != nil {
		t.Fatal(err)
	}
	return x.Code()
}

// monitorOf is the number of the monitor that serves dir, 0 if none does.
func monitorOf(t *testing.T, dir string) int {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err == nil && strings.HasPrefix(string(b), Name+"\x00") && strings.HasSuffix(string(b), "\x00"+dir+"\x00") {
			pid, _ := strconv.Atoi(strings.Split(p, "/")[2])
			return pid
		}
	}
	return 0
}

func untilGone(t *testing.T, dir string, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); pid != 0 && monitorOf(t, dir) == pid; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("monitor %d does not end", pid)
		}
	}
}

func TestExits(t *testing.T) {
	dir := t.TempDir()
	c := client(t, dir)
	for i := range 20 {
		// Some end before the runtime does.
		script := fmt.Sprintf("exit %d", i)
		if i%2 == 1 {
			script = "sleep 0.01; " + script
		}
		key := fmt.Sprint("p", i)
		res, err := c.Run(key, leave(dir, key, script), [3]*os.File{}, nil)
		if err != nil || res.Status != 0 || res.PID == 0 {
			t.Fatalf("%+v, %v", res, err)
		}
		if res.Pidfd != nil {
			_ = res.Pidfd.Close()
		}
		if got := exit(t, c, key); got != int32(i) {
			t.Errorf("exit %d, want %d", got, i)
		}
		if err := c.Drop(key); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Exit("p1"); !errdefs.IsNotFound(err) {
		t.Errorf("exit of what was dropped: %v", err)
	}
	// A runtime that fails leaves nothing.
	res, err := c.Run("f", Command{Argv: []string{"/bin/sh", "-c", "exit 3"}}, [3]*os.File{}, nil)
	if err != nil || res.Status != 3 {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := c.Run("f", Command{Argv: []string{"/no/such/runtime"}}, [3]*os.File{}, nil); err == nil {
		t.Error("a runtime that is not there: no error")
	}
	if err := c.Drop("f"); err != nil {
		t.Fatal(err)
	}
	// Nothing is held and nobody asks: no process is left for it.
	untilGone(t, dir, monitorOf(t, dir))
}

// What a killed monitor held is held by the next, and exits are not lost: neither
// those it saw, nor those after it.
func TestMonitorKilled(t *testing.T) {
	dir := t.TempDir()
	c := client(t, dir)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for key, script := range map[string]string{"early": "exit 11", "late": "read line; exit 12"} {
		res, err := c.Run(key, leave(dir, key, script), [3]*os.File{r}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.Pidfd != nil {
			_ = res.Pidfd.Close()
		}
	}
	if err := c.Hold("late", "stdin", w); err != nil {
		t.Fatal(err)
	}
	if got := exit(t, c, "early"); got != 11 {
		t.Errorf("exit before the kill: %d", got)
	}
	_ = w.Close() // the monitor and the client have it
	for range 3 {
		pid := 0
		for deadline := time.Now().Add(10 * time.Second); pid == 0; pid = monitorOf(t, dir) {
			if time.Now().After(deadline) {
				t.Fatal("no monitor follows the one that was killed")
			}
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		untilGone(t, dir, pid)
	}
	if got := exit(t, c, "early"); got != 11 {
		t.Errorf("exit that an earlier monitor saw: %d", got)
	}
	f, err := c.File("late", "stdin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "go\n"); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	x, err := c.Exit("late")
	if err != nil {
		t.Fatal(err)
	}
	if x.Code() != 12 && !x.Unknown { // the latter before Linux 6.15
		t.Errorf("exit after the kill: %+v", x)
	}
	for _, key := range []string{"early", "late"} {
		if err := c.Drop(key); err != nil {
			t.Fatal(err)
		}
	}
	untilGone(t, dir, monitorOf(t, dir))
}

// A client that is gone leaves everything to the next.
func TestClientGone(t *testing.T) {
	dir := t.TempDir()
	first := client(t, dir)
	res, err := first.Run("p", leave(dir, "p", "sleep 0.05; exit 13"), [3]*os.File{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.Pidfd != nil {
		_ = res.Pidfd.Close()
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := first.Hold("box", "file", null); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := client(t, dir)
	held, err := second.List()
	if err != nil {
		t.Fatal(err)
	}
	if len(held) != 2 || held["p"].PID != res.PID || held["box"].Files["file"] == nil {
		t.Errorf("%+v", held)
	}
	for _, h := range held {
		h.Close()
	}
	if got := exit(t, second, "p"); got != 13 {
		t.Errorf("exit %d", got)
	}
	for key := range held {
		if err := second.Drop(key); err != nil {
			t.Fatal(err)
		}
	}
	untilGone(t, dir, monitorOf(t, dir))
}

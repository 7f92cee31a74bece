package vmm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func ended(t testing.TB, m Machine) error {
	t.Helper()
	select {
	case <-m.Done():
		return m.Err()
	case <-time.After(time.Minute):
		t.Fatal("the machine still runs")
		return nil
	}
}

// Every end has its reason.
func TestEnds(t *testing.T) {
	q, shape := setUp(t)
	tmpl := makeTemplate(t, q, shape)
	for _, test := range []struct {
		name   string
		end    func(Machine, *agent)
		reason Reason
		detail string
	}{
		{"init exits", func(_ Machine, a *agent) { _, _ = a.ask("exit") }, GuestPanic, "Attempted to kill init! exitcode=0x00000300"},
		{"reboot", func(_ Machine, a *agent) { _, _ = a.ask("reboot") }, GuestShutdown, ""},
		{"out of memory", func(_ Machine, a *agent) {
			for {
				if _, err := a.ask("touch 10"); err != nil {
					return
				}
			}
		}, GuestPanic, "System is deadlocked on memory"},
		{"killed", func(m Machine, _ *agent) { _ = syscall.Kill(m.PID(), syscall.SIGKILL) }, Signalled, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := start(t, q, Config{Shape: shape, Template: tmpl, Jail: testJail()})
			a := newAgent(m)
			a.must(t, "pong", "ping")
			if m.Err() != nil {
				t.Fatalf("ended before its end: %v", m.Err())
			}
			test.end(m, a)
			err := ended(t, m)
			var exit *Exit
			if !errors.As(err, &exit) || exit.Reason != test.reason || exit.Detail != test.detail {
				t.Errorf("ended with %#v (%v)", err, err)
			}
			if _, err := m.Port("agent").Read(make([]byte, 1)); !errors.Is(err, io.EOF) && err == nil {
				t.Errorf("the port of a dead machine reads %v", err)
			}
			if err := m.Kill(); err != nil {
				t.Errorf("kill of a dead machine: %v", err)
			}
		})
	}
}

// A monitor that crashes is told from one that was killed, with what it said. Here its
// guest's memory is taken away.
func TestCrash(t *testing.T) {
	q, shape := setUp(t)
	m := start(t, q, Config{Shape: shape, Savable: true, Jail: testJail()}).(*machine)
	newAgent(m).must(t, "pong", "ping")
	const words = "hw/net.c:1: send: Assertion `sent' failed."
	if _, err := m.stderr.Write([]byte("qemu:\n" + words + "\n")); err != nil {
		t.Fatal(err)
	}
	if err := m.memory.Truncate(0); err != nil {
		t.Fatal(err)
	}
	err := ended(t, m)
	var exit *Exit
	if !errors.As(err, &exit) || exit.Reason != Failed || exit.Signal != syscall.SIGBUS || !strings.HasSuffix(exit.Error(), words) {
		t.Errorf("ended with %#v (%v)", err, err)
	}
	t.Log(err)
}

// parent launches what its standard input describes, says which process that is,
// and waits for its own end.
func parent() {
	err := func() error {
		var in struct {
			Dir   string
			Shape Shape
		}
		if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
			return err
		}
		q, err := NewQEMU(QEMUOptions{Dir: in.Dir, Stage: []string{os.Args[0], stageArg}})
		if err != nil {
			return err
		}
		l, err := q.Launch(Config{Shape: in.Shape, Jail: testJail()})
		if err != nil {
			return err
		}
		m, err := q.Attach(context.Background(), l)
		if err != nil {
			return err
		}
		fmt.Println(m.PID())
		select {}
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// Nothing is left of a machine whose parent was killed.
func TestParentDies(t *testing.T) {
	q, shape := setUp(t)
	cmd := exec.Command(os.Args[0], parentArg)
	input, err := json.Marshal(map[string]any{"Dir": q.opts.Dir, "Shape": shape})
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscan(out, &pid)
	if kill := cmd.Process.Kill(); err != nil || kill != nil {
		t.Fatal(err, kill)
	}
	_ = cmd.Wait()
	for i := 0; ; i++ {
		// Whoever inherited it may not have reaped it yet.
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(data), ") Z ") {
			return
		}
		if i > 1000 {
			t.Fatalf("the monitor still runs: %s", data)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestKill(t *testing.T) {
	q, shape := setUp(t)
	m := start(t, q, Config{Shape: shape, Jail: testJail()})
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(m.Err(), ErrKilled) {
		t.Errorf("ended with %v", m.Err())
	}
}

// A paused guest answers when it goes on, not before.
func TestPause(t *testing.T) {
	q, shape := setUp(t)
	m := start(t, q, Config{Shape: shape, Jail: testJail()})
	a := newAgent(m)
	a.must(t, "pong 1", "ping 1")
	ctx := within(t, time.Minute)
	for range 2 {
		if err := m.Pause(ctx); err != nil {
			t.Fatal(err)
		}
	}
	answer := make(chan string, 1)
	go func() {
		got, _ := a.ask("ping 2")
		answer <- got
	}()
	select {
	case got := <-answer:
		t.Fatalf("a paused guest answered %q", got)
	case <-time.After(200 * time.Millisecond):
	}
	for range 2 {
		if err := m.Resume(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-answer; got != "pong 2" {
		t.Errorf("answered %q", got)
	}
}

// What a guest's kernel says is kept, up to a bound, however much it is.
func TestConsoleIsBounded(t *testing.T) {
	q, shape := setUp(t)
	m := start(t, q, Config{Shape: shape, Jail: testJail()})
	a := newAgent(m)
	text := strings.Repeat("flood", 150)
	for range 120 {
		a.must(t, "ok", "say %s", text)
	}
	// In a flood QEMU loses what is not read in time; what comes after it arrives.
	for i := 0; !strings.Contains(m.Console(), "the last word"); i++ {
		if i > 1000 {
			t.Fatal("the last word did not arrive")
		}
		a.must(t, "ok", "say the last word")
	}
	if n := len(m.Console()); n > ConsoleSize {
		t.Errorf("%d bytes kept", n)
	}
}

// A jail that can not be made is said so, in words.
func TestLaunchFails(t *testing.T) {
	q, shape := setUp(t)
	jail := testJail()
	jail.UID = 0
	l, err := q.Launch(Config{Shape: shape, Jail: jail})
	if err == nil {
		_, err = q.Attach(within(t, time.Minute), l)
	}
	if err == nil || !strings.Contains(err.Error(), "a monitor never runs as root") {
		t.Errorf("as root: %v", err)
	}

	bad := shape
	bad.Kernel = os.Args[0] // no kernel
	l, err = q.Launch(Config{Shape: bad, Jail: testJail()})
	if err == nil {
		_, err = q.Attach(within(t, time.Minute), l)
	}
	if err == nil {
		t.Error("booted a Go program")
	}
	t.Log(err)
}

func TestShapeCheck(t *testing.T) {
	good := Shape{Accel: TCG, Flavour: OwnKernel, Memory: 128 << 20, CPUs: 1, Ports: []string{"agent"}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Shape){
		"accelerator":     func(s *Shape) { s.Accel = "xen" },
		"flavour":         func(s *Shape) { s.Flavour = "bsd" },
		"little memory":   func(s *Shape) { s.Memory = 1 << 20 },
		"odd memory":      func(s *Shape) { s.Memory++ },
		"no processors":   func(s *Shape) { s.CPUs = 0 },
		"many disks":      func(s *Shape) { s.Disks = make([]DiskSlot, MaxDisks+1) },
		"many interfaces": func(s *Shape) { s.NICs = MaxNICs + 1 },
		"a comma":         func(s *Shape) { s.Ports = []string{"a,chardev=monitor"} },
		"a port twice":    func(s *Shape) { s.Ports = []string{"a", "a"} },
	} {
		s := good
		change(&s)
		if s.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

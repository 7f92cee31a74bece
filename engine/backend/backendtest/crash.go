package backendtest

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// crashChecks are about a backend whose process gets SIGKILL.
var crashChecks = []check{
	{"CrashLosesNoContainer", (*suite).crashContainer},
	{"CrashLosesNoLogLine", (*suite).crashLog},
	{"CrashLosesNoExitCode", (*suite).crashExit},
	{"CrashLosesNoEvent", (*suite).crashEvents},
	{"CrashKeepsWhatWasCreated", (*suite).crashCreated},
	{"CrashKeepsStdinAndAttach", (*suite).crashStdin},
	{"CrashKeepsTerminals", (*suite).crashTerminal},
	{"CrashKeepsExecs", (*suite).crashExec},
	{"CrashKeepsPauses", (*suite).crashPause},
	{"CrashEndsAttachments", (*suite).crashAttachments},
}

// crash kills the backend and goes on with the next.
func (s *suite) crash(meanwhile func()) {
	s.Helper()
	if s.Crash == nil {
		s.Skip("this fixture cannot kill its backend")
	}
	if meanwhile == nil {
		meanwhile = func() {}
	}
	s.Backend = s.Crash(s.T, meanwhile)
}

func (s *suite) crashContainer() {
	ref := s.run("c", forever...)
	for range 3 {
		s.crash(nil)
		if got := s.phase(ref); got != backendpb.ProcessState_RUNNING {
			s.Fatalf("phase after a crash: %v", got)
		}
		s.wantExec(ref, "e", 8, sh("exit 8")...)
	}
	s.must(s.Backend.Signal(s.ctx, &backendpb.SignalRequest{Process: ref, Signal: "SIGKILL"}), "Signal")
	s.wantExit(ref, 137)
	s.remove(ref)
	s.must(s.Backend.Close(s.ctx, "c"), "Close")
	list, err := s.Backend.List(s.ctx)
	s.must(err, "List")
	if len(list.Containers)+len(list.Sandboxes) != 0 {
		s.Errorf("List in the end: %v", list)
	}
}

// counter prints numbers, a line each, with a pause between.
func counter(n int, pause string) (script []string, want string) {
	var b, w strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "echo %d; sleep %s; ", i, pause)
		fmt.Fprintf(&w, "%d\n", i)
	}
	return sh(b.String() + "exit 12"), w.String()
}

func (s *suite) crashLog() {
	script, want := counter(60, "0.02")
	ref := s.run("c", script...)
	for range 4 {
		s.crash(nil)
	}
	s.wantExit(ref, 12)
	s.wantEqual(s.logged("c", "stdout"), want, "log")
}

func (s *suite) crashExit() {
	ref := s.run("c", sh("sleep 0.05; echo bye; exit 17")...)
	s.crash(nil)
	s.wantExit(ref, 17)
	s.wantEqual(s.logged("c", "stdout"), "bye\n", "log")
	s.crash(nil)
	s.wantExit(ref, 17)
	_, err := s.Backend.Start(s.ctx, ref)
	s.wantKind(err, errdefs.ErrFailedPrecondition, "Start of an exited process after a crash")
}

func (s *suite) crashEvents() {
	one := s.run("one", sh("exit 1")...)
	s.wantExit(one, 1)
	before := s.until(s.events(0), is(backendpb.Event_EXITED, one))
	s.crash(nil)
	after := s.until(s.events(0), is(backendpb.Event_EXITED, one))
	s.wantEqual(describe(after), describe(before), "events after a crash")
	two := s.run("two", sh("exit 2")...)
	got := s.until(s.events(before[len(before)-1].Seq), is(backendpb.Event_EXITED, two))
	if len(got) != 2 || got[0].Seq != before[len(before)-1].Seq+1 {
		s.Errorf("events of the next process: %s", describe(got))
	}
}

func (s *suite) crashCreated() {
	ref := s.create("c", nil, sh("echo hello; exit 21")...)
	s.crash(nil)
	if got := s.phase(ref); got != backendpb.ProcessState_CREATED {
		s.Fatalf("phase after a crash: %v", got)
	}
	a := s.attach(ref, false)
	s.start(ref)
	out := s.drain(a)
	s.wantEqual(string(out.stdout), "hello\n", "stdout")
	s.wantExit(ref, 21)
}

func (s *suite) crashStdin() {
	ref := s.create("c", &backendpb.IO{Stdin: true}, "cat")
	a := s.attach(ref, true)
	s.start(ref)
	s.must(a.Send([]byte("one\n")), "Send")
	s.expect(a, "one\n")
	s.crash(nil)
	if got := s.phase(ref); got != backendpb.ProcessState_RUNNING {
		s.Fatalf("phase after a crash: %v", got)
	}
	a = s.attach(ref, true)
	s.must(a.Send([]byte("two\n")), "Send")
	s.expect(a, "two\n")
	s.must(a.CloseStdin(), "CloseStdin")
	s.wantExit(ref, 0)
	s.wantEqual(s.logged("c", "stdout"), "one\ntwo\n", "log")
}

func (s *suite) crashTerminal() {
	ref := s.create("c", &backendpb.IO{Terminal: true, Rows: 10, Cols: 20}, forever...)
	s.start(ref)
	s.crash(nil)
	s.must(s.Backend.Resize(s.ctx, &backendpb.ResizeRequest{Process: ref, Rows: 30, Cols: 40}), "Resize")
	if got := s.phase(ref); got != backendpb.ProcessState_RUNNING {
		s.Errorf("phase after a crash: %v", got)
	}
}

func (s *suite) crashExec() {
	ref := s.run("c", forever...)
	ex := s.exec(ref, "e", &backendpb.IO{Stdin: true}, "cat")
	s.start(ex)
	created := s.exec(ref, "f", nil, sh("exit 31")...)
	s.crash(nil)
	a := s.attach(ex, true)
	s.must(a.Send([]byte("text\n")), "Send")
	s.expect(a, "text\n")
	s.must(a.CloseStdin(), "CloseStdin")
	s.wantExit(ex, 0)
	s.start(created)
	s.wantExit(created, 31)
}

func (s *suite) crashPause() {
	p, ok := s.Backend.(backend.Pauser)
	if !ok || !s.capable(backend.CapPause) {
		s.absent(backend.CapPause)
		return
	}
	ref := s.run("c", forever...)
	s.must(p.Pause(s.ctx, "c"), "Pause")
	s.crash(nil)
	st, err := s.Backend.State(s.ctx, "c")
	s.must(err, "State")
	if !st.Paused {
		s.Errorf("State after a crash: %v", st)
	}
	s.must(s.Backend.(backend.Pauser).Resume(s.ctx, "c"), "Resume")
	s.wantExec(ref, "e", 0, "true")
}

func (s *suite) crashAttachments() {
	ref := s.run("c", forever...)
	a := s.attach(ref, false)
	ev := s.events(0)
	s.crash(func() {
		// Both streams end at once with an error, not as if the process had ended.
		if _, err := a.Recv(); err == nil {
			s.Errorf("attachment gave output after the crash")
		}
		for {
			if _, err := ev.Recv(); err != nil {
				s.wantKind(err, errdefs.ErrUnavailable, "event stream after the crash")
				return
			}
		}
	})
}

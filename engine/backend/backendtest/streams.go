package backendtest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// streamChecks are about Attach, terminals and the log.
var streamChecks = []check{
	{"AttachBeforeStartMissesNoByte", (*suite).attachFirst},
	{"EveryAttacherGetsAll", (*suite).attachMany},
	{"OnlyTheStreamsAskedFor", (*suite).attachSome},
	{"AttachLaterGetsOnlyWhatComesLater", (*suite).attachLater},
	{"DetachLeavesTheProcessAlone", (*suite).detach},
	{"AttachRefusesWhatHasExited", (*suite).attachExited},
	{"CancelAfterAttachDoesNotDetach", (*suite).attachContext},
	{"StdinReachesTheProcess", (*suite).stdin},
	{"StdinOfSomeSize", (*suite).stdinBig},
	{"StdinIsEmptyUnlessAskedFor", (*suite).stdinNone},
	{"StdinStaysOpenForTheNextAttacher", (*suite).stdinAgain},
	{"StdinOnceEndsWithTheFirstAttacher", (*suite).stdinOnce},
	{"TerminalMergesStreams", (*suite).terminal},
	{"ResizeSetsTheSize", (*suite).resize},
	{"ResizeRefusals", (*suite).resizeRefusals},
	{"LogHoldsAllOutput", (*suite).logAll},
	{"LogHoldsAnUnfinishedLine", (*suite).logPartial},
	{"LogWithoutADriver", (*suite).logNone},
	{"FloodIsNeitherLostNorMixed", (*suite).flood},
	{"SlowAttacherLosesNothing", (*suite).slowAttacher},
}

func (s *suite) attachFirst() {
	ref := s.create("c", nil, sh("echo out; echo err >&2")...)
	a := s.attach(ref, false)
	s.start(ref)
	out := s.drain(a)
	s.wantEqual(string(out.stdout), "out\n", "stdout")
	s.wantEqual(string(out.stderr), "err\n", "stderr")
	s.wantExit(ref, 0)
}

func (s *suite) attachMany() {
	ref := s.create("c", nil, sh("echo one; sleep 0.01; echo two")...)
	var attached []backend.Streams
	for range 5 {
		attached = append(attached, s.attach(ref, false))
	}
	s.start(ref)
	for _, a := range attached {
		out := s.drain(a)
		s.wantEqual(string(out.stdout), "one\ntwo\n", "stdout")
	}
}

func (s *suite) attachSome() {
	ref := s.create("c", nil, sh("echo out; echo err >&2")...)
	a, err := s.Backend.Attach(s.ctx, &backendpb.AttachOpen{Process: ref, Stderr: true})
	s.must(err, "Attach")
	defer func() { _ = a.Close() }()
	s.start(ref)
	out := s.drain(a)
	s.wantEqual(string(out.stdout), "", "stdout")
	s.wantEqual(string(out.stderr), "err\n", "stderr")
}

func (s *suite) attachLater() {
	ref := s.create("c", &backendpb.IO{Stdin: true}, sh("echo early; cat")...)
	first := s.attach(ref, true)
	s.start(ref)
	s.expect(first, "early\n")
	second := s.attach(ref, false)
	s.must(first.Send([]byte("late\n")), "Send")
	s.must(first.CloseStdin(), "CloseStdin")
	out := s.drain(second)
	s.wantEqual(string(out.stdout), "late\n", "stdout of the later attacher")
}

func (s *suite) detach() {
	ref := s.create("c", &backendpb.IO{Stdin: true}, "cat")
	first := s.attach(ref, true)
	s.start(ref)
	s.must(first.Close(), "Close")
	if _, err := first.Recv(); !errors.Is(err, io.EOF) {
		s.Errorf("Recv after Close: %v, want EOF", err)
	}
	if got := s.phase(ref); got != backendpb.ProcessState_RUNNING {
		s.Errorf("phase after detach: %v", got)
	}
	second := s.attach(ref, true)
	s.must(second.Send([]byte("hello\n")), "Send")
	s.must(second.CloseStdin(), "CloseStdin")
	out := s.drain(second)
	s.wantEqual(string(out.stdout), "hello\n", "stdout after attaching again")
	s.wantExit(ref, 0)
}

func (s *suite) attachExited() {
	ref := s.run("c", "true")
	s.wantExit(ref, 0)
	_, err := s.Backend.Attach(s.ctx, &backendpb.AttachOpen{Process: ref, Stdout: true})
	s.wantKind(err, errdefs.ErrFailedPrecondition, "Attach after exit")
}

func (s *suite) stdin() {
	ref := s.create("c", &backendpb.IO{Stdin: true}, "cat")
	a := s.attach(ref, true)
	s.must(a.Send([]byte("before\n")), "Send before Start")
	s.start(ref)
	s.expect(a, "before\n")
	s.must(a.Send([]byte("after\n")), "Send")
	s.must(a.CloseStdin(), "CloseStdin")
	out := s.drain(a)
	s.wantEqual(string(out.stdout), "after\n", "stdout")
	s.wantExit(ref, 0)
}

func (s *suite) stdinBig() {
	ref := s.create("c", &backendpb.IO{Stdin: true}, "cat")
	a := s.attach(ref, true)
	s.start(ref)
	want := strings.Repeat(strings.Repeat("x", 99)+"\n", 10_000)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Send([]byte(want)); err != nil {
			s.Errorf("Send: %v", err)
		}
		if err := a.CloseStdin(); err != nil {
			s.Errorf("CloseStdin: %v", err)
		}
	})
	out := s.drain(a)
	wg.Wait()
	s.wantEqual(string(out.stdout), want, "what cat gave back")
	s.wantExit(ref, 0)
	s.wantEqual(s.logged("c", "stdout"), want, "what was logged")
}

func (s *suite) stdinNone() {
	ref := s.run("c", "cat")
	s.wantExit(ref, 0)
}

func (s *suite) stdinAgain() {
	ref := s.create("c", &backendpb.IO{Stdin: true}, "cat")
	s.start(ref)
	for _, text := range []string{"one\n", "two\n"} {
		a := s.attach(ref, true)
		s.must(a.Send([]byte(text)), "Send")
		s.expect(a, text)
		s.must(a.Close(), "Close")
	}
	if got := s.phase(ref); got != backendpb.ProcessState_RUNNING {
		s.Errorf("phase after both left: %v", got)
	}
}

func (s *suite) stdinOnce() {
	ref := s.create("c", &backendpb.IO{Stdin: true, StdinOnce: true}, "cat")
	a := s.attach(ref, true)
	s.start(ref)
	s.must(a.Send([]byte("text\n")), "Send")
	s.expect(a, "text\n")
	s.must(a.Close(), "Close")
	s.wantExit(ref, 0)
}

func (s *suite) terminal() {
	ref := s.create("c", &backendpb.IO{Terminal: true}, sh("echo out; echo err >&2; exit 4")...)
	a := s.attach(ref, false)
	s.start(ref)
	out := s.drain(a)
	s.wantEqual(string(out.stdout), "out\r\nerr\r\n", "what the terminal shows")
	s.wantEqual(string(out.stderr), "", "stderr of a terminal")
	s.wantExit(ref, 4)
	s.wantEqual(s.logged("c", "stdout"), "out\r\nerr\r\n", "what was logged")
}

func (s *suite) resize() {
	ref := s.create("c", &backendpb.IO{Terminal: true, Rows: 11, Cols: 22}, forever...)
	s.start(ref)
	ex := s.exec(ref, "e", &backendpb.IO{Terminal: true, Rows: 33, Cols: 44}, s.TerminalSize...)
	a := s.attach(ex, false)
	s.must(s.Backend.Resize(s.ctx, &backendpb.ResizeRequest{Process: ref, Rows: 1, Cols: 2}), "Resize")
	s.start(ex)
	s.expect(a, "33 44")

	again := s.create("again", &backendpb.IO{Terminal: true, Stdin: true, Rows: 3, Cols: 4},
		sh("read go; "+strings.Join(s.TerminalSize, " "))...)
	if s.Without["read"] == "" {
		b := s.attach(again, true)
		s.start(again)
		s.must(s.Backend.Resize(s.ctx, &backendpb.ResizeRequest{Process: again, Rows: 55, Cols: 66}), "Resize")
		s.must(b.Send([]byte("\n")), "Send")
		s.expect(b, "55 66")
	}
}

func (s *suite) resizeRefusals() {
	ref := s.run("c", forever...)
	s.wantKind(s.Backend.Resize(s.ctx, &backendpb.ResizeRequest{Process: ref, Rows: 5, Cols: 5}),
		errdefs.ErrFailedPrecondition, "Resize without a terminal")
	done := s.create("t", &backendpb.IO{Terminal: true}, "true")
	s.start(done)
	s.wantExit(done, 0)
	s.wantKind(s.Backend.Resize(s.ctx, &backendpb.ResizeRequest{Process: done, Rows: 5, Cols: 5}),
		errdefs.ErrFailedPrecondition, "Resize after exit")
}

func (s *suite) logAll() {
	s.sandbox("c")
	c := s.prepare("c", nil, sh("echo one; sleep 0.01; echo two >&2; sleep 0.01; echo three")...)
	c.Log.Attrs = map[string]string{"color": "blue"}
	_, err := s.Backend.Create(s.ctx, c)
	s.must(err, "Create")
	ref := &backendpb.ProcessRef{Container: "c"}
	s.start(ref)
	s.wantExit(ref, 0)
	var got []string
	for _, l := range s.log("c") {
		got = append(got, l.Stream+" "+l.Log)
		if l.Attrs["color"] != "blue" {
			s.Errorf("log record lacks its attribute: %+v", l)
		}
	}
	s.wantEqual(strings.Join(got, ""), "stdout one\nstderr two\nstdout three\n", "log")
	// The log belongs to the engine: Delete leaves it.
	s.remove(ref)
	if len(s.log("c")) != 3 {
		s.Errorf("log after Delete: %v", s.log("c"))
	}
}

func (s *suite) logPartial() {
	ref := s.create("c", &backendpb.IO{Stdin: true}, "cat")
	a := s.attach(ref, true)
	s.start(ref)
	s.must(a.Send([]byte("line\nno newline")), "Send")
	s.must(a.CloseStdin(), "CloseStdin")
	s.wantExit(ref, 0)
	s.wantEqual(s.logged("c", "stdout"), "line\nno newline", "log")
}

func (s *suite) logNone() {
	s.sandbox("c")
	c := s.prepare("c", nil, "echo", "hello")
	path := c.Log.Path
	c.Log = &backendpb.Log{Driver: "none"}
	_, err := s.Backend.Create(s.ctx, c)
	s.must(err, "Create")
	ref := &backendpb.ProcessRef{Container: "c"}
	a := s.attach(ref, false)
	s.start(ref)
	out := s.drain(a)
	s.wantEqual(string(out.stdout), "hello\n", "stdout")
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		s.Errorf("a log was written: %v", err)
	}
}

func (s *suite) flood() {
	const size = 2_000_000
	ref := s.create("c", nil, s.Flood(size)...)
	a := s.attach(ref, false)
	s.start(ref)
	out := s.drain(a)
	if len(out.stdout) != size {
		s.Errorf("attacher got %d bytes, want %d", len(out.stdout), size)
	}
	s.wantExit(ref, 0)
	// EXITED says that the log is complete.
	s.wantEqual(s.logged("c", "stdout"), string(out.stdout), "log")
}

func (s *suite) slowAttacher() {
	const size = 1_000_000
	ref := s.create("c", nil, s.Flood(size)...)
	fast, slow := s.attach(ref, false), s.attach(ref, false)
	s.start(ref)
	first, err := slow.Recv()
	s.must(err, "Recv")
	// The slow one now reads nothing until the fast one has all it can get.
	var wg sync.WaitGroup
	var fastOut output
	wg.Go(func() { fastOut = s.drain(fast) })
	slowOut := output{stdout: bytes.Clone(first.Data)}
	rest := s.drain(slow)
	slowOut.stdout = append(slowOut.stdout, rest.stdout...)
	wg.Wait()
	s.wantEqual(string(slowOut.stdout), string(fastOut.stdout), "slow attacher")
	if len(fastOut.stdout) != size {
		s.Errorf("fast attacher got %d bytes, want %d", len(fastOut.stdout), size)
	}
}

package backendtest

import (
	"context"
	"errors"
	"fmt"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// eventChecks are about the stream of events.
var eventChecks = []check{
	{"StartedPrecedesExited", (*suite).eventOrder},
	{"EventsAreNumberedWithoutGaps", (*suite).eventNumbers},
	{"EventsReplayFromAnyNumber", (*suite).eventReplay},
	{"EverySubscriberGetsAllEvents", (*suite).eventSubscribers},
	{"ExecsExitBeforeTheFirstProcess", (*suite).execsExitFirst},
	{"EventsEndWithTheirContext", (*suite).eventContext},
	{"EventsOfTheFutureReset", (*suite).eventReset},
}

func (s *suite) eventOrder() {
	ref := s.create("c", nil, sh("exit 9")...)
	ev := s.events(0)
	s.start(ref)
	got := s.until(ev, is(backendpb.Event_EXITED, ref))
	if len(got) != 2 || !is(backendpb.Event_STARTED, ref)(got[0]) || got[1].Exit.GetCode() != 9 {
		s.Errorf("events: %s", describe(got))
	}
	for _, e := range got {
		if e.At == 0 {
			s.Errorf("event %d has no time", e.Seq)
		}
	}
}

func (s *suite) eventNumbers() {
	ev := s.events(0)
	var last *backendpb.ProcessRef
	for i := range 5 {
		last = s.run(fmt.Sprintf("c%d", i), "true")
		s.wantExit(last, 0)
	}
	for i, e := range s.until(ev, is(backendpb.Event_EXITED, last)) {
		if e.Seq != uint64(i+1) {
			s.Fatalf("event %d has number %d", i, e.Seq)
		}
	}
}

func (s *suite) eventReplay() {
	one, two := s.run("one", "true"), s.run("two", sh("exit 2")...)
	s.wantExit(one, 0)
	s.wantExit(two, 2)
	all := s.until(s.events(0), func(e *backendpb.Event) bool { return e.Seq == 4 })
	for after := range uint64(4) {
		got := s.until(s.events(after), func(e *backendpb.Event) bool { return e.Seq == 4 })
		s.wantEqual(describe(got), describe(all[after:]), fmt.Sprintf("events after %d", after))
	}
}

func (s *suite) eventSubscribers() {
	first, second := s.events(0), s.events(0)
	ref := s.run("c", "true")
	s.wantEqual(
		describe(s.until(first, is(backendpb.Event_EXITED, ref))),
		describe(s.until(second, is(backendpb.Event_EXITED, ref))),
		"events of two subscribers")
}

func (s *suite) execsExitFirst() {
	ref := s.run("c", forever...)
	var execs []*backendpb.ProcessRef
	for i := range 3 {
		ex := s.exec(ref, fmt.Sprintf("e%d", i), nil, "sleep", "1000")
		s.start(ex)
		execs = append(execs, ex)
	}
	s.must(s.Backend.Signal(s.ctx, &backendpb.SignalRequest{Process: ref, Signal: "SIGKILL"}), "Signal")
	got := s.until(s.events(0), is(backendpb.Event_EXITED, ref))
	for _, ex := range execs {
		exits := 0
		for _, e := range got {
			if is(backendpb.Event_EXITED, ex)(e) {
				exits++
				if e.Exit.GetCode() != 137 {
					s.Errorf("exit of %s: %v", ex.Exec, e.Exit)
				}
			}
		}
		if exits != 1 {
			s.Errorf("%d EXITED of %s before the container's: %s", exits, ex.Exec, describe(got))
		}
	}
}

func (s *suite) eventContext() {
	ctx, cancel := context.WithCancel(s.ctx)
	ev, err := s.Backend.Events(ctx, 0)
	s.must(err, "Events")
	cancel()
	if _, err := ev.Recv(); !errors.Is(err, context.Canceled) {
		s.Errorf("Recv after cancel: %v, want %v", err, context.Canceled)
	}
}

func (s *suite) eventReset() {
	ref := s.run("c", "true")
	s.wantExit(ref, 0)
	ev := s.events(1000)
	e, err := ev.Recv()
	s.must(err, "Recv")
	if e.Type != backendpb.Event_RESET || e.Seq != 2 {
		s.Fatalf("first event after a number that never was: %s, want RESET at 2", describe([]*backendpb.Event{e}))
	}
	next := s.run("next", "true")
	got := s.until(ev, is(backendpb.Event_EXITED, next))
	if got[0].Seq != 3 {
		s.Errorf("events after RESET: %s", describe(got))
	}
}

func (s *suite) attachContext() {
	ref := s.create("c", nil, sh("sleep 0.05; echo late")...)
	ctx, cancel := context.WithCancel(s.ctx)
	a, err := s.Backend.Attach(ctx, &backendpb.AttachOpen{Process: ref, Stdout: true})
	s.must(err, "Attach")
	defer func() { _ = a.Close() }()
	cancel()
	s.start(ref)
	out := s.drain(a)
	s.wantEqual(string(out.stdout), "late\n", "stdout after the call's context ended")
}

package backendtest

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// lifeChecks are about the verbs from Open to Close.
var lifeChecks = []check{
	{"InfoTellsWhatItIs", (*suite).infoTells},
	{"Life", (*suite).life},
	{"OpenRefusesAnIDThatExists", (*suite).openTwice},
	{"CreateRefusesWhatCannotBe", (*suite).createRefusals},
	{"StartRefusesASecondTime", (*suite).startTwice},
	{"UnknownIDsAreNotFound", (*suite).unknown},
	{"DeleteAndCloseAreIdempotent", (*suite).idempotent},
	{"DeleteKills", (*suite).deleteKills},
	{"DeleteOfAnExecKillsOnlyIt", (*suite).deleteExec},
	{"CloseDeletesWhatIsLeft", (*suite).closeDeletes},
	{"ExitCodes", (*suite).exitCodes},
	{"ProgramsThatCannotBeExecuted", (*suite).execFailures},
	{"SignalsReachTheProcess", (*suite).signals},
	{"SignalRefusals", (*suite).signalRefusals},
	{"ExecRunsBesideTheFirstProcess", (*suite).execRuns},
	{"ExecRefusals", (*suite).execRefusals},
	{"StatsOfARunningContainer", (*suite).stats},
	{"UpdateChangesLimits", (*suite).update},
	{"ManyAtOnce", (*suite).manyAtOnce},
	{"OneOfManyStartsWins", (*suite).startRace},
}

func (s *suite) infoTells() {
	info, err := s.Backend.Info(s.ctx)
	s.must(err, "Info")
	if info.Name == "" || info.Os == "" || info.Arch == "" {
		s.Errorf("Info lacks name, os or arch: %v", info)
	}
	if !slices.ContainsFunc(info.Levels, func(l *backendpb.Level) bool { return l.Name == info.DefaultLevel && l.Strength > 0 }) {
		s.Errorf("default level %q is not among the levels with a strength: %v", info.DefaultLevel, info.Levels)
	}
}

func (s *suite) life() {
	ref := s.create("life", nil, sh("echo out; echo err >&2; exit 3")...)
	if got := s.phase(ref); got != backendpb.ProcessState_CREATED {
		s.Errorf("phase after Create: %v", got)
	}
	list, err := s.Backend.List(s.ctx)
	s.must(err, "List")
	if len(list.Containers) != 1 || list.Containers[0].Init.Process.Container != "life" ||
		list.Containers[0].Sandbox != "life" || !slices.Contains(list.Sandboxes, "life") {
		s.Errorf("List after Create: %v", list)
	}
	s.start(ref)
	exit := s.wait(ref)
	if exit.Code != 3 || exit.Unknown || exit.OomKilled || exit.At == 0 {
		s.Errorf("exit: %v", exit)
	}
	st, err := s.Backend.State(s.ctx, "life")
	s.must(err, "State")
	if st.Init.Phase != backendpb.ProcessState_EXITED || st.Init.Exit.GetCode() != 3 || st.Init.StartedAt == 0 {
		s.Errorf("State after exit: %v", st)
	}
	s.wantEqual(s.logged("life", "stdout"), "out\n", "logged stdout")
	s.wantEqual(s.logged("life", "stderr"), "err\n", "logged stderr")
	s.remove(ref)
	s.must(s.Backend.Close(s.ctx, "life"), "Close")
	list, err = s.Backend.List(s.ctx)
	s.must(err, "List")
	if len(list.Containers) != 0 || len(list.Sandboxes) != 0 {
		s.Errorf("List after Delete and Close: %v", list)
	}
}

func (s *suite) openTwice() {
	s.sandbox("box")
	s.wantKind(s.Backend.Open(s.ctx, &backendpb.Sandbox{Id: "box"}), errdefs.ErrAlreadyExists, "second Open")
}

func (s *suite) createRefusals() {
	stray := s.prepare("stray", nil, "true")
	stray.Sandbox = "nowhere"
	_, err := s.Backend.Create(s.ctx, stray)
	s.wantKind(err, errdefs.ErrNotFound, "Create in an unknown sandbox")

	s.sandbox("c")
	broken := s.prepare("c", nil, "true")
	broken.Spec = []byte(`{"process":`)
	_, err = s.Backend.Create(s.ctx, broken)
	s.wantKind(err, errdefs.ErrInvalidArgument, "Create with a broken spec")

	// A Create that failed left nothing: the same id can be created.
	_, err = s.Backend.Create(s.ctx, s.prepare("c", nil, "true"))
	s.must(err, "Create after a failed one")
	_, err = s.Backend.Create(s.ctx, s.created["c"])
	s.wantKind(err, errdefs.ErrAlreadyExists, "second Create")
	ref := &backendpb.ProcessRef{Container: "c"}
	s.start(ref)
	s.wantExit(ref, 0)
}

func (s *suite) startTwice() {
	ref := s.run("c", forever...)
	_, err := s.Backend.Start(s.ctx, ref)
	s.wantKind(err, errdefs.ErrFailedPrecondition, "Start of a running process")
	s.must(s.Backend.Signal(s.ctx, &backendpb.SignalRequest{Process: ref, Signal: "SIGKILL"}), "Signal")
	s.wantExit(ref, 137)
	_, err = s.Backend.Start(s.ctx, ref)
	s.wantKind(err, errdefs.ErrFailedPrecondition, "Start of an exited process")
}

func (s *suite) unknown() {
	ref := &backendpb.ProcessRef{Container: "nobody"}
	calls := map[string]func() error{
		"Start":  func() error { _, err := s.Backend.Start(s.ctx, ref); return err },
		"Attach": func() error { _, err := s.Backend.Attach(s.ctx, &backendpb.AttachOpen{Process: ref}); return err },
		"Resize": func() error {
			return s.Backend.Resize(s.ctx, &backendpb.ResizeRequest{Process: ref, Rows: 1, Cols: 1})
		},
		"Signal": func() error {
			return s.Backend.Signal(s.ctx, &backendpb.SignalRequest{Process: ref, Signal: "SIGTERM"})
		},
		"State": func() error { _, err := s.Backend.State(s.ctx, "nobody"); return err },
		"Stats": func() error { _, err := s.Backend.Stats(s.ctx, "nobody"); return err },
		"Update": func() error {
			return s.Backend.Update(s.ctx, &backendpb.UpdateRequest{Container: "nobody", Resources: []byte("{}")})
		},
		"Exec": func() error {
			return s.Backend.Exec(s.ctx, &backendpb.ExecSpec{Container: "nobody", Exec: "e", Process: s.Process(false, "true"), Io: &backendpb.IO{}})
		},
	}
	for verb, call := range calls {
		s.wantKind(call(), errdefs.ErrNotFound, verb+" of an unknown container")
	}
	known := s.run("known", forever...)
	_, err := s.Backend.Start(s.ctx, &backendpb.ProcessRef{Container: known.Container, Exec: "nobody"})
	s.wantKind(err, errdefs.ErrNotFound, "Start of an unknown exec")
}

func (s *suite) idempotent() {
	s.must(s.Backend.Delete(s.ctx, &backendpb.ProcessRef{Container: "nobody"}), "Delete of an unknown container")
	s.must(s.Backend.Close(s.ctx, "nobody"), "Close of an unknown sandbox")
	ref := s.run("c", "true")
	s.must(s.Backend.Delete(s.ctx, &backendpb.ProcessRef{Container: "c", Exec: "nobody"}), "Delete of an unknown exec")
	s.wantExit(ref, 0)
	for range 2 {
		s.must(s.Backend.Delete(s.ctx, ref), "Delete")
	}
	for range 2 {
		s.must(s.Backend.Close(s.ctx, "c"), "Close")
	}
	// What is gone is gone: the ids are free again.
	again := s.run("c", "true")
	s.wantExit(again, 0)
}

func (s *suite) deleteKills() {
	ref := s.run("c", forever...)
	ev := s.events(0)
	s.remove(ref)
	got := s.until(ev, is(backendpb.Event_EXITED, ref))
	if exit := got[len(got)-1].Exit; exit.GetCode() != 137 {
		s.Errorf("exit of a container that Delete killed: %v", exit)
	}
}

func (s *suite) deleteExec() {
	ref := s.run("c", forever...)
	ex := s.exec(ref, "e", nil, "sleep", "1000")
	s.start(ex)
	s.remove(ex)
	st, err := s.Backend.State(s.ctx, "c")
	s.must(err, "State")
	if len(st.Execs) != 0 || st.Init.Phase != backendpb.ProcessState_RUNNING {
		s.Errorf("State after Delete of the exec: %v", st)
	}
	// Its id is free again.
	again := s.exec(ref, "e", nil, "true")
	s.start(again)
	s.wantExit(again, 0)
}

func (s *suite) closeDeletes() {
	s.run("c", forever...)
	s.must(s.Backend.Close(s.ctx, "c"), "Close")
	_, err := s.Backend.State(s.ctx, "c")
	s.wantKind(err, errdefs.ErrNotFound, "State after Close")
}

func (s *suite) exitCodes() {
	for _, code := range []int32{0, 1, 42, 255} {
		ref := s.run(fmt.Sprintf("code-%d", code), sh(fmt.Sprintf("exit %d", code))...)
		s.wantExit(ref, code)
	}
	ref := s.run("host", forever...)
	s.wantExec(ref, "selfkill", 128+15, sh("kill -TERM $$; sleep 1000")...)
	s.wantExec(ref, "ten", 10, sh("exit 10")...)
}

// wantExec runs an exec to its end.
func (s *suite) wantExec(ref *backendpb.ProcessRef, id string, code int32, args ...string) {
	s.Helper()
	ex := s.exec(ref, id, nil, args...)
	s.start(ex)
	s.wantExit(ex, code)
	s.remove(ex)
}

func (s *suite) execFailures() {
	host := s.run("host", forever...)
	for program, want := range map[string]backendpb.ExecFailure_Kind{
		"/no/such/program": backendpb.ExecFailure_NO_COMMAND,
		"no-such-program":  backendpb.ExecFailure_NO_COMMAND,
		s.NotExecutable:    backendpb.ExecFailure_NOT_EXECUTABLE,
	} {
		box := fmt.Sprintf("c%d-%d", want, len(program))
		for _, ref := range []*backendpb.ProcessRef{
			s.create(box, nil, program),
			s.exec(host, box, nil, program),
		} {
			_, err := s.Backend.Start(s.ctx, ref)
			failure, ok := errors.AsType[*backend.ExecError](err)
			if !ok || failure.Kind != want || failure.Message == "" {
				s.Errorf("Start of %q (exec %q): got error %v (%T), want kind %v", program, ref.Exec, err, err, want)
			}
			s.wantKind(err, errdefs.ErrInvalidArgument, "Start of "+program)
			_, err = s.Backend.Start(s.ctx, ref)
			s.wantKind(err, errdefs.ErrFailedPrecondition, "second Start of "+program)
			s.remove(ref)
		}
	}
	// None of them was ever heard of.
	ev := s.events(0)
	s.must(s.Backend.Signal(s.ctx, &backendpb.SignalRequest{Process: host, Signal: "SIGKILL"}), "Signal")
	for _, e := range s.until(ev, is(backendpb.Event_EXITED, host)) {
		if e.Process.Container != "host" || e.Process.Exec != "" {
			s.Errorf("event of a process that never started: %s", describe([]*backendpb.Event{e}))
		}
	}
}

func (s *suite) signals() {
	trapped := s.create("trapped", nil, sh("trap 'exit 7' TERM; echo ready; sleep 1000 & wait")...)
	a := s.attach(trapped, false)
	s.start(trapped)
	s.expect(a, "ready") // before it the trap is not set
	s.must(s.Backend.Signal(s.ctx, &backendpb.SignalRequest{Process: trapped, Signal: "SIGTERM"}), "Signal")
	s.wantExit(trapped, 7)

	killed := s.run("killed", forever...)
	s.must(s.Backend.Signal(s.ctx, &backendpb.SignalRequest{Process: killed, Signal: "SIGKILL"}), "Signal")
	s.wantExit(killed, 137)

	all := s.run("all", forever...)
	ex := s.exec(all, "e", nil, "sleep", "1000")
	s.start(ex)
	s.must(s.Backend.Signal(s.ctx, &backendpb.SignalRequest{Process: all, Signal: "SIGKILL", All: true}), "Signal")
	s.wantExit(all, 137)
	s.wantExit(ex, 137)

	one := s.run("one", forever...)
	ex = s.exec(one, "e", nil, "sleep", "1000")
	s.start(ex)
	s.must(s.Backend.Signal(s.ctx, &backendpb.SignalRequest{Process: ex, Signal: "SIGTERM"}), "Signal")
	s.wantExit(ex, 143)
	if got := s.phase(one); got != backendpb.ProcessState_RUNNING {
		s.Errorf("phase of the container whose exec was killed: %v", got)
	}
}

func (s *suite) signalRefusals() {
	ref := s.create("c", nil, forever...)
	sig := func(name string) error {
		return s.Backend.Signal(s.ctx, &backendpb.SignalRequest{Process: ref, Signal: name})
	}
	s.wantKind(sig("SIGTERM"), errdefs.ErrFailedPrecondition, "Signal before Start")
	s.start(ref)
	s.wantKind(sig("SIGNONSENSE"), errdefs.ErrInvalidArgument, "unknown signal")
	s.must(sig("SIGKILL"), "Signal")
	s.wantExit(ref, 137)
	s.wantKind(sig("SIGTERM"), errdefs.ErrFailedPrecondition, "Signal after exit")
}

func (s *suite) execRuns() {
	ref := s.run("c", forever...)
	ex := s.exec(ref, "e", nil, sh("echo hello; echo oops >&2; exit 5")...)
	if got := s.phase(ex); got != backendpb.ProcessState_CREATED {
		s.Errorf("phase after Exec: %v", got)
	}
	a := s.attach(ex, false)
	s.start(ex)
	out := s.drain(a)
	s.wantEqual(string(out.stdout), "hello\n", "stdout of the exec")
	s.wantEqual(string(out.stderr), "oops\n", "stderr of the exec")
	s.wantExit(ex, 5)
	if got := s.phase(ex); got != backendpb.ProcessState_EXITED {
		s.Errorf("phase after exit: %v", got)
	}
	if got := s.phase(ref); got != backendpb.ProcessState_RUNNING {
		s.Errorf("phase of the container: %v", got)
	}
	s.remove(ex)
	if got := s.log("c"); len(got) != 0 {
		s.Errorf("an exec's output is in the container's log: %v", got)
	}
}

func (s *suite) execRefusals() {
	ref := s.create("c", nil, forever...)
	prepare := func() error {
		return s.Backend.Exec(s.ctx, &backendpb.ExecSpec{Container: "c", Exec: "e", Process: s.Process(false, "true"), Io: &backendpb.IO{}})
	}
	s.wantKind(prepare(), errdefs.ErrFailedPrecondition, "Exec before Start")
	s.start(ref)
	s.must(prepare(), "Exec")
	s.wantKind(prepare(), errdefs.ErrAlreadyExists, "second Exec")
	s.must(s.Backend.Signal(s.ctx, &backendpb.SignalRequest{Process: ref, Signal: "SIGKILL"}), "Signal")
	s.wantExit(ref, 137)
	s.must(s.Backend.Delete(s.ctx, &backendpb.ProcessRef{Container: "c", Exec: "e"}), "Delete of an exec in an exited container")
	s.wantKind(prepare(), errdefs.ErrFailedPrecondition, "Exec after exit")
}

func (s *suite) stats() {
	s.run("c", forever...)
	st, err := s.Backend.Stats(s.ctx, "c")
	s.must(err, "Stats")
	if st.At == 0 || st.Cpu == nil || st.Memory == nil {
		s.Errorf("Stats lack time, CPU or memory: %v", st)
	}
}

func (s *suite) update() {
	s.run("c", forever...)
	s.must(s.Backend.Update(s.ctx, &backendpb.UpdateRequest{Container: "c", Resources: []byte(`{"pids":{"limit":77}}`)}), "Update")
	st, err := s.Backend.Stats(s.ctx, "c")
	s.must(err, "Stats")
	if st.PidsLimit != 77 {
		s.Errorf("pids limit after Update: %d, want 77", st.PidsLimit)
	}
	// Absent fields stay.
	s.must(s.Backend.Update(s.ctx, &backendpb.UpdateRequest{Container: "c", Resources: []byte(`{"memory":{"limit":268435456}}`)}), "Update")
	if st, err = s.Backend.Stats(s.ctx, "c"); err != nil || st.PidsLimit != 77 || st.Memory.GetLimit() != 256<<20 {
		s.Errorf("limits after the second Update: %v, error %v", st, err)
	}
	s.wantKind(s.Backend.Update(s.ctx, &backendpb.UpdateRequest{Container: "c", Resources: []byte(`{`)}), errdefs.ErrInvalidArgument, "broken Update")
}

func (s *suite) manyAtOnce() {
	var wg sync.WaitGroup
	for i := range 12 {
		id := fmt.Sprintf("c%d", i)
		s.sandbox(id)
		c := s.prepare(id, nil, sh(fmt.Sprintf("echo %s; exit %d", id, i))...)
		wg.Go(func() {
			if err := s.one(c, int32(i)); err != nil {
				s.Errorf("container %s: %v", id, err)
			}
		})
	}
	wg.Wait()
}

// one is a whole life without the suite's helpers, which may end the test.
func (s *suite) one(c *backendpb.Container, code int32) error {
	ref := &backendpb.ProcessRef{Container: c.Id}
	if _, err := s.Backend.Create(s.ctx, c); err != nil {
		return fmt.Errorf("verb Create: %w", err)
	}
	a, err := s.Backend.Attach(s.ctx, &backendpb.AttachOpen{Process: ref, Stdout: true})
	if err != nil {
		return fmt.Errorf("verb Attach: %w", err)
	}
	defer func() { _ = a.Close() }()
	if _, err := s.Backend.Start(s.ctx, ref); err != nil {
		return fmt.Errorf("verb Start: %w", err)
	}
	var out output
	for {
		m, err := a.Recv()
		if err != nil {
			break
		}
		out.add(m)
	}
	if string(out.stdout) != c.Id+"\n" {
		return fmt.Errorf("stdout is %q", out.stdout)
	}
	st, err := s.Backend.State(s.ctx, c.Id)
	if err != nil {
		return fmt.Errorf("verb State: %w", err)
	}
	if st.Init.Phase == backendpb.ProcessState_EXITED && st.Init.Exit.GetCode() != code {
		return fmt.Errorf("exit is %v", st.Init.Exit)
	}
	if err := s.Backend.Delete(s.ctx, ref); err != nil {
		return fmt.Errorf("verb Delete: %w", err)
	}
	return s.Backend.Close(s.ctx, c.Id)
}

func (s *suite) startRace() {
	ref := s.create("c", nil, forever...)
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			_, err := s.Backend.Start(s.ctx, ref)
			errs <- err
		}()
	}
	won := 0
	for range cap(errs) {
		if err := <-errs; err == nil {
			won++
		} else {
			s.wantKind(err, errdefs.ErrFailedPrecondition, "Start that lost")
		}
	}
	if won != 1 {
		s.Errorf("%d of %d concurrent Starts succeeded", won, cap(errs))
	}
}

// Package backendtest checks that a backend does what package backend says: each
// test is a sentence of the contract. A new backend's test is a factory and one
// call of Run.
//
// The programs that the suite runs in containers are sh, echo, cat, sleep, true
// and what the fixture names; scripts use nothing but echo, exit, sleep, trap
// and kill, separated by semicolons.
package backendtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// Fixture is one backend with its host, fresh for each test.
type Fixture struct {
	Backend backend.Backend

	// Container returns a container that runs args and has a root filesystem of
	// its own, where sh, echo, cat, sleep and true are in PATH. The suite fills in
	// Sandbox, Io, Log and StateDir. With terminal the spec asks for one.
	Container func(t *testing.T, id string, terminal bool, args ...string) *backendpb.Container
	// Process returns the OCI process JSON that runs args in it.
	Process func(terminal bool, args ...string) []byte
	// Sandbox returns a sandbox to open; nil makes one that has only an id.
	Sandbox func(t *testing.T, id string) *backendpb.Sandbox

	// Crash kills the backend's process as SIGKILL does, calls meanwhile, opens
	// the backend again over the same state, and returns it. nil if this backend
	// cannot be killed here; Run says so.
	Crash func(t *testing.T, meanwhile func()) backend.Backend

	NotExecutable string               // a file that is there but cannot be executed
	TerminalSize  []string             // command that prints its terminal's "rows cols"
	Flood         func(n int) []string // command that writes n bytes to stdout, in lines
	Without       map[string]string    // test name → why this backend is not asked it
}

// timeout bounds each wait; it only ends tests that would hang.
const timeout = 2 * time.Minute

// check is one sentence of the contract.
type check struct {
	name string
	run  func(s *suite)
}

// Run runs the suite. factory registers its own cleanup with t.
func Run(t *testing.T, factory func(t *testing.T) Fixture) {
	for _, c := range slices.Concat(lifeChecks, streamChecks, eventChecks, optionalChecks, crashChecks) {
		t.Run(c.name, func(t *testing.T) {
			f := factory(t)
			if why, ok := f.Without[c.name]; ok {
				t.Skip(why)
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			s := &suite{T: t, Fixture: f, ctx: ctx, created: map[string]*backendpb.Container{}}
			c.run(s)
			for _, id := range s.opened {
				if err := s.Backend.Close(ctx, id); err != nil {
					t.Errorf("Close(%s): %v", id, err)
				}
			}
		})
	}
}

// suite is one test under way.
type suite struct {
	*testing.T
	Fixture
	ctx     context.Context
	opened  []string
	created map[string]*backendpb.Container
}

func (s *suite) must(err error, what string, args ...any) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", fmt.Sprintf(what, args...), err)
	}
}

// wantKind fails unless err has the kind.
func (s *suite) wantKind(err, kind error, what string) {
	s.Helper()
	if !errors.Is(err, kind) {
		s.Errorf("%s: got error %v, want kind %q", what, err, kind)
	}
}

// sandbox opens one and has it closed in the end.
func (s *suite) sandbox(id string) {
	s.Helper()
	box := &backendpb.Sandbox{Id: id}
	if s.Sandbox != nil {
		box = s.Sandbox(s.T, id)
	}
	s.must(s.Backend.Open(s.ctx, box), "Open(%s)", id)
	s.opened = append(s.opened, id)
}

// prepare makes a container's description, not the container.
func (s *suite) prepare(id string, io *backendpb.IO, args ...string) *backendpb.Container {
	if io == nil {
		io = &backendpb.IO{}
	}
	dir := s.TempDir()
	c := s.Container(s.T, id, io.Terminal, args...)
	c.Id, c.Sandbox, c.Io, c.StateDir = id, id, io, dir
	c.Log = &backendpb.Log{Driver: "json-file", Path: filepath.Join(dir, "json.log")}
	s.created[id] = c
	return c
}

// create opens a sandbox of the same name and creates the container in it.
func (s *suite) create(id string, io *backendpb.IO, args ...string) *backendpb.ProcessRef {
	s.Helper()
	s.sandbox(id)
	_, err := s.Backend.Create(s.ctx, s.prepare(id, io, args...))
	s.must(err, "Create(%s)", id)
	return &backendpb.ProcessRef{Container: id}
}

func (s *suite) start(ref *backendpb.ProcessRef) {
	s.Helper()
	_, err := s.Backend.Start(s.ctx, ref)
	s.must(err, "Start(%s %s)", ref.Container, ref.Exec)
}

// run is create and start.
func (s *suite) run(id string, args ...string) *backendpb.ProcessRef {
	s.Helper()
	ref := s.create(id, nil, args...)
	s.start(ref)
	return ref
}

// exec prepares an exec in a container.
func (s *suite) exec(ref *backendpb.ProcessRef, id string, io *backendpb.IO, args ...string) *backendpb.ProcessRef {
	s.Helper()
	if io == nil {
		io = &backendpb.IO{}
	}
	s.must(s.Backend.Exec(s.ctx, &backendpb.ExecSpec{
		Container: ref.Container, Exec: id, Process: s.Process(io.Terminal, args...), Io: io,
	}), "Exec(%s)", id)
	return &backendpb.ProcessRef{Container: ref.Container, Exec: id}
}

// events subscribes for the rest of the test.
func (s *suite) events(after uint64) backend.EventStream {
	s.Helper()
	ev, err := s.Backend.Events(s.ctx, after)
	s.must(err, "Events(%d)", after)
	return ev
}

// until reads events up to the first that match, and returns all it read.
func (s *suite) until(ev backend.EventStream, match func(*backendpb.Event) bool) []*backendpb.Event {
	s.Helper()
	var got []*backendpb.Event
	for {
		e, err := ev.Recv()
		if err != nil {
			s.Fatalf("events ended before the one awaited: %v\ngot: %v", err, describe(got))
		}
		if e.Type == backendpb.Event_RESET {
			s.Fatalf("RESET after %v", describe(got))
		}
		got = append(got, e)
		if match(e) {
			return got
		}
	}
}

// is matches one type of event of one process.
func is(kind backendpb.Event_Type, ref *backendpb.ProcessRef) func(*backendpb.Event) bool {
	return func(e *backendpb.Event) bool {
		return e.Type == kind && e.Process.GetContainer() == ref.Container && e.Process.GetExec() == ref.Exec
	}
}

// wait returns how a started process exits, from the beginning of its events,
// or from State where the backend cannot replay them.
func (s *suite) wait(ref *backendpb.ProcessRef) *backendpb.Exit {
	s.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	ev, err := s.Backend.Events(ctx, 0)
	s.must(err, "Events(0)")
	for {
		e, err := ev.Recv()
		s.must(err, "Recv while waiting for the exit of %s %s", ref.Container, ref.Exec)
		if is(backendpb.Event_EXITED, ref)(e) {
			return e.Exit
		}
		if e.Type != backendpb.Event_RESET {
			continue
		}
		st, err := s.Backend.State(s.ctx, ref.Container)
		s.must(err, "State after RESET")
		for _, p := range append([]*backendpb.ProcessState{st.Init}, st.Execs...) {
			if p.GetProcess().GetExec() == ref.Exec && p.Phase == backendpb.ProcessState_EXITED {
				return p.Exit
			}
		}
	}
}

func (s *suite) wantExit(ref *backendpb.ProcessRef, code int32) {
	s.Helper()
	if exit := s.wait(ref); exit.GetCode() != code || exit.GetUnknown() {
		s.Errorf("exit of %s %s: got %v, want code %d", ref.Container, ref.Exec, exit, code)
	}
}

// remove deletes and checks that it is gone.
func (s *suite) remove(ref *backendpb.ProcessRef) {
	s.Helper()
	s.must(s.Backend.Delete(s.ctx, ref), "Delete(%s %s)", ref.Container, ref.Exec)
	if ref.Exec == "" {
		_, err := s.Backend.State(s.ctx, ref.Container)
		s.wantKind(err, errdefs.ErrNotFound, "State of a deleted container")
	}
}

func (s *suite) phase(ref *backendpb.ProcessRef) backendpb.ProcessState_Phase {
	s.Helper()
	st, err := s.Backend.State(s.ctx, ref.Container)
	s.must(err, "State(%s)", ref.Container)
	for _, p := range append([]*backendpb.ProcessState{st.Init}, st.Execs...) {
		if p.GetProcess().GetExec() == ref.Exec {
			return p.Phase
		}
	}
	s.Fatalf("State(%s) does not tell of exec %q: %v", ref.Container, ref.Exec, st)
	return 0
}

// attach connects to all streams, stdin included if the process has one.
func (s *suite) attach(ref *backendpb.ProcessRef, stdin bool) backend.Streams {
	s.Helper()
	a, err := s.Backend.Attach(s.ctx, &backendpb.AttachOpen{Process: ref, Stdin: stdin, Stdout: true, Stderr: true})
	s.must(err, "Attach(%s %s)", ref.Container, ref.Exec)
	s.Cleanup(func() { _ = a.Close() })
	return a
}

// output is what one attachment receives.
type output struct{ stdout, stderr []byte }

// drain reads an attachment to its end.
func (s *suite) drain(a backend.Streams) output {
	s.Helper()
	var out output
	for {
		m, err := a.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		s.must(err, "Recv")
		out.add(m)
	}
}

func (o *output) add(m *backendpb.AttachOutput) {
	switch m.Stream {
	case backendpb.AttachOutput_STDOUT:
		o.stdout = append(o.stdout, m.Data...)
	case backendpb.AttachOutput_STDERR:
		o.stderr = append(o.stderr, m.Data...)
	}
}

// expect reads stdout until it holds text.
func (s *suite) expect(a backend.Streams, text string) {
	s.Helper()
	var out output
	for !bytes.Contains(out.stdout, []byte(text)) {
		m, err := a.Recv()
		s.must(err, "Recv while waiting for %q, have %q", text, out.stdout)
		out.add(m)
	}
}

// line is a record of a json-file log.
type line struct {
	Log    string            `json:"log"`
	Stream string            `json:"stream"`
	Time   time.Time         `json:"time"`
	Attrs  map[string]string `json:"attrs"`
}

// log reads a container's log as far as it is written.
func (s *suite) log(id string) []line {
	s.Helper()
	data, err := os.ReadFile(s.created[id].Log.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	s.must(err, "reading the log")
	var lines []line
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var l line
		s.must(json.Unmarshal(sc.Bytes(), &l), "log record %q", sc.Text())
		if l.Time.IsZero() {
			s.Errorf("log record without a time: %q", sc.Text())
		}
		lines = append(lines, l)
	}
	s.must(sc.Err(), "reading the log")
	return lines
}

// logged is the text of a stream in the log.
func (s *suite) logged(id, stream string) string {
	s.Helper()
	var b strings.Builder
	for _, l := range s.log(id) {
		if l.Stream == stream {
			b.WriteString(l.Log)
		}
	}
	return b.String()
}

func (s *suite) wantEqual(got, want, what string) {
	s.Helper()
	if got != want {
		if len(got)+len(want) > 400 {
			s.Errorf("%s: got %d bytes, want %d, first difference at byte %d", what, len(got), len(want), commonPrefix(got, want))
			return
		}
		s.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// describe makes events readable.
func describe(events []*backendpb.Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "\n  %d %s %s %s", e.Seq, e.Type, e.Process.GetContainer(), e.Process.GetExec())
		if e.Exit != nil {
			fmt.Fprintf(&b, " code=%d", e.Exit.Code)
		}
	}
	return b.String()
}

// capable tells whether Info lists a capability.
func (s *suite) capable(capability string) bool {
	s.Helper()
	info, err := s.Backend.Info(s.ctx)
	s.must(err, "Info")
	return slices.Contains(info.Capabilities, capability)
}

// sh is a command that runs a script.
func sh(script string) []string { return []string{"sh", "-c", script} }

// forever runs until it is killed, and ends at once on SIGTERM with code 7.
var forever = sh("trap 'exit 7' TERM; sleep 1000 & wait")

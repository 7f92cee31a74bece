package fake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// command is what a fake reads of an OCI process.
type command struct {
	Args []string `json:"args"`
	Env  []string `json:"env"`
}

// proc is a container's first process or an exec. What is exported survives
// SIGKILL.
type proc struct {
	Ref         *backendpb.ProcessRef
	Command     command
	IO          *backendpb.IO
	Reaped      bool // it has an init above it, so it is not PID 1
	Phase       backendpb.ProcessState_Phase
	Failed      bool // Start could not execute it
	StartedAt   time.Time
	Step        int       // index of the command that runs
	StepAt      time.Time // when that began
	Written     int       // bytes that it wrote so far, of flood
	Status      int32     // of the command before
	Traps       map[string]string
	InputClosed bool
	Partial     map[backendpb.AttachOutput_Stream][]byte // line not logged yet
	LogSize     int64
	Exit        *backendpb.Exit

	gone    bool // nothing more will be output
	input   []byte
	signals []string
	sinks   map[*attachment]struct{}
}

func newProc(ref *backendpb.ProcessRef, cmd command, io *backendpb.IO) *proc {
	if io == nil {
		io = &backendpb.IO{}
	}
	return &proc{
		Ref: ref, Command: cmd, IO: io, InputClosed: !io.GetStdin(),
		Traps: map[string]string{}, Partial: map[backendpb.AttachOutput_Stream][]byte{},
		sinks: map[*attachment]struct{}{},
	}
}

// state is the wire form.
func (p *proc) state() *backendpb.ProcessState {
	s := &backendpb.ProcessState{Process: p.Ref, Phase: p.Phase, Exit: p.Exit}
	if !p.StartedAt.IsZero() {
		s.StartedAt = p.StartedAt.UnixNano()
	}
	return s
}

// steps are the commands of the process, each with its words.
func (p *proc) steps() [][]string {
	args := p.Command.Args
	if path.Base(args[0]) != "sh" || len(args) < 3 || args[1] != "-c" {
		return [][]string{args}
	}
	var steps [][]string
	for s := range strings.SplitSeq(strings.ReplaceAll(args[2], "& wait", ""), ";") {
		if w := words(s); len(w) > 0 {
			steps = append(steps, w)
		}
	}
	return steps
}

// words splits like a shell that knows blanks and single quotes.
func words(s string) []string {
	var out []string
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// check tells whether the program could be executed.
func (p *proc) check() error {
	name := p.Command.Args[0]
	base := path.Base(name)
	if _, ok := commands[base]; ok || base == "sh" {
		return nil
	}
	if base == "noexec" {
		return &backend.ExecError{
			Kind:    backendpb.ExecFailure_NOT_EXECUTABLE,
			Message: fmt.Sprintf("exec: %q: permission denied", name),
		}
	}
	return &backend.ExecError{
		Kind:    backendpb.ExecFailure_NO_COMMAND,
		Message: fmt.Sprintf("exec: %q: executable file not found in $PATH", name),
	}
}

// machine is a process while it runs, with the backend's lock held but for the
// time that it waits.
type machine struct {
	b *Backend
	c *ctr
	p *proc
}

// commands run one step each and return its status. They return early, with
// anything, if the process has ended meanwhile.
var commands = map[string]func(m machine, args []string) int32{
	"true":  func(machine, []string) int32 { return 0 },
	"false": func(machine, []string) int32 { return 1 },
	"echo":  machine.echo,
	"exit":  machine.exit,
	"sleep": machine.sleep,
	"cat":   machine.cat,
	"hang":  machine.hang,
	"tty":   machine.tty,
	"kill":  machine.kill,
	"trap":  machine.trap,
	"flood": machine.flood,
	"env":   machine.env,
	"oom":   machine.oom,
}

// run runs a process to its end, from the step it is at.
func (b *Backend) run(c *ctr, p *proc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := machine{b, c, p}
	steps := p.steps()
	for p.Phase == backendpb.ProcessState_RUNNING && !b.closed {
		if p.Step == len(steps) {
			b.end(c, p, &backendpb.Exit{Code: p.Status})
			break
		}
		// Signals and pauses also reach a process that never waits.
		if !m.wait(func() bool { return true }, time.Time{}) {
			continue
		}
		args := steps[p.Step]
		if do, ok := commands[path.Base(args[0])]; ok {
			p.Status = do(m, args[1:])
		} else {
			m.write(backendpb.AttachOutput_STDERR, []byte(fmt.Sprintf("sh: %s: not found\n", args[0])))
			p.Status = 127
		}
		if p.Phase == backendpb.ProcessState_RUNNING && !b.closed {
			p.Step, p.StepAt, p.Written = p.Step+1, time.Now(), 0
			b.mustSave()
		}
	}
	b.mustSave()
}

// wait waits until ready or the time has come, the zero time being never, and
// delivers signals meanwhile. It is false if the process ended.
func (m machine) wait(ready func() bool, until time.Time) bool {
	if !until.IsZero() {
		t := time.AfterFunc(time.Until(until), m.b.wake)
		defer t.Stop()
	}
	for {
		if m.b.closed || m.p.Phase != backendpb.ProcessState_RUNNING {
			return false
		}
		if !m.c.Paused {
			m.deliver()
			if m.p.Phase != backendpb.ProcessState_RUNNING {
				return false
			}
			if ready() || (!until.IsZero() && !time.Now().Before(until)) {
				return true
			}
		}
		m.b.changed.Wait()
	}
}

func (b *Backend) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed.Broadcast()
}

// deliver acts on the signals that came.
func (m machine) deliver() {
	for len(m.p.signals) > 0 && m.p.Phase == backendpb.ProcessState_RUNNING {
		sig := m.p.signals[0]
		m.p.signals = m.p.signals[1:]
		handler, trapped := m.p.Traps[sig]
		pid1 := m.p == m.c.Init && !m.p.Reaped
		switch {
		case sig == "SIGKILL":
		case trapped:
			if code, ok := strings.CutPrefix(handler, "exit "); ok {
				n, _ := strconv.Atoi(code)
				m.b.end(m.c, m.p, &backendpb.Exit{Code: int32(n)})
			}
			continue
		case pid1 || harmless[sig]:
			continue
		}
		m.b.end(m.c, m.p, &backendpb.Exit{Code: 128 + signalNumber(sig)})
	}
}

// write outputs to attachers and, for a first process, to the log.
func (m machine) write(stream backendpb.AttachOutput_Stream, data []byte) {
	p := m.p
	if p.IO.GetTerminal() {
		stream = backendpb.AttachOutput_STDOUT
		data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
	}
	for a := range p.sinks {
		if a.wants(stream) {
			a.queue = append(a.queue, &backendpb.AttachOutput{Stream: stream, Data: bytes.Clone(data)})
		}
	}
	if p == m.c.Init {
		p.Partial[stream] = append(p.Partial[stream], data...)
		for {
			i := bytes.IndexByte(p.Partial[stream], '\n')
			if i < 0 {
				break
			}
			m.c.log(p, stream, p.Partial[stream][:i+1])
			p.Partial[stream] = p.Partial[stream][i+1:]
		}
	}
	m.b.changed.Broadcast()
}

func (m machine) echo(args []string) int32 {
	stream := backendpb.AttachOutput_STDOUT
	if n := len(args); n > 0 && args[n-1] == ">&2" {
		stream, args = backendpb.AttachOutput_STDERR, args[:n-1]
	}
	m.write(stream, []byte(strings.Join(args, " ")+"\n"))
	return 0
}

func (m machine) exit(args []string) int32 {
	code := m.p.Status
	if len(args) > 0 {
		n, _ := strconv.Atoi(args[0])
		code = int32(n & 0xff)
	}
	m.b.end(m.c, m.p, &backendpb.Exit{Code: code})
	return code
}

func (m machine) sleep(args []string) int32 {
	seconds := 0.0
	if len(args) > 0 {
		seconds, _ = strconv.ParseFloat(args[0], 64)
	}
	m.wait(func() bool { return false }, m.p.StepAt.Add(time.Duration(seconds*float64(time.Second))))
	return 0
}

func (m machine) hang([]string) int32 {
	m.wait(func() bool { return false }, time.Time{})
	return 0
}

func (m machine) cat([]string) int32 {
	for {
		if !m.wait(func() bool { return len(m.p.input) > 0 || m.p.InputClosed }, time.Time{}) {
			return 0
		}
		if len(m.p.input) == 0 {
			return 0
		}
		data := m.p.input
		m.p.input = nil
		m.write(backendpb.AttachOutput_STDOUT, data)
		m.b.mustSave()
	}
}

func (m machine) tty([]string) int32 {
	return m.echo([]string{fmt.Sprint(m.p.IO.GetRows()), fmt.Sprint(m.p.IO.GetCols())})
}

func (m machine) kill(args []string) int32 {
	if len(args) > 0 {
		m.p.signals = append(m.p.signals, canonicalSignal(strings.TrimPrefix(args[0], "-")))
		m.deliver()
	}
	return 0
}

func (m machine) trap(args []string) int32 {
	if len(args) == 2 {
		m.p.Traps[canonicalSignal(args[1])] = args[0]
	}
	return 0
}

func (m machine) flood(args []string) int32 {
	total := 0
	if len(args) > 0 {
		total, _ = strconv.Atoi(args[0])
	}
	line := append(bytes.Repeat([]byte("0123456789"), 100), '\n')
	for m.p.Written < total && m.wait(m.roomForOutput, time.Time{}) {
		n := min(len(line), total-m.p.Written)
		m.write(backendpb.AttachOutput_STDOUT, line[:n])
		m.p.Written += n
	}
	return 0
}

// roomForOutput holds a writer back while an attacher does not read.
func (m machine) roomForOutput() bool {
	for a := range m.p.sinks {
		if len(a.queue) > 256 {
			return false
		}
	}
	return true
}

func (m machine) env(args []string) int32 {
	for _, kv := range m.p.Command.Env {
		k, v, _ := strings.Cut(kv, "=")
		if len(args) == 0 {
			m.echo([]string{kv})
		} else if k == args[0] {
			m.echo([]string{v})
		}
	}
	return 0
}

func (m machine) oom([]string) int32 {
	m.b.emit(&backendpb.Event{Type: backendpb.Event_OOM, Process: m.p.Ref})
	m.b.end(m.c, m.p, &backendpb.Exit{Code: 128 + 9, OomKilled: true})
	return 0
}

// end makes a process one that has ended, and its execs before it. What was
// never started only loses its attachments. Call with mu held.
func (b *Backend) end(c *ctr, p *proc, exit *backendpb.Exit) {
	if p == c.Init {
		for _, e := range c.Execs {
			b.end(c, e, &backendpb.Exit{Code: 128 + 9})
		}
	}
	if p.gone {
		return
	}
	p.gone = true
	b.changed.Broadcast()
	if p.Phase != backendpb.ProcessState_RUNNING {
		return
	}
	for stream, rest := range p.Partial {
		if len(rest) > 0 {
			c.log(p, stream, rest)
		}
	}
	exit.At = time.Now().UnixNano()
	p.Partial, p.Phase, p.Exit = nil, backendpb.ProcessState_EXITED, exit
	if p == c.Init {
		c.Paused = false
	}
	b.emit(&backendpb.Event{Type: backendpb.Event_EXITED, Process: p.Ref, Exit: exit})
}

// log appends one record in json-file format. The size is kept so that a step
// that is run again after a crash does not double its lines.
func (c *ctr) log(p *proc, stream backendpb.AttachOutput_Stream, line []byte) {
	if p != c.Init || c.Log.GetPath() == "" || c.Log.GetDriver() == "none" {
		return
	}
	record := struct {
		Log    string            `json:"log"`
		Stream string            `json:"stream"`
		Attrs  map[string]string `json:"attrs,omitempty"`
		Time   time.Time         `json:"time"`
	}{string(line), streamNames[stream], c.Log.GetAttrs(), time.Now().UTC()}
	data, err := json.Marshal(record)
	if err != nil {
		return
	}
	f, err := os.OpenFile(c.Log.GetPath(), os.O_WRONLY|os.O_CREATE, 0o640)
	if err != nil {
		return
	}
	defer f.Close()
	if _, err := f.Seek(p.LogSize, io.SeekStart); err != nil {
		return
	}
	n, err := f.Write(append(data, '\n'))
	p.LogSize += int64(n)
	if err != nil {
		return
	}
}

var streamNames = map[backendpb.AttachOutput_Stream]string{
	backendpb.AttachOutput_STDOUT: "stdout",
	backendpb.AttachOutput_STDERR: "stderr",
}

// signals are Linux's, by canonical name.
var signals = map[string]int32{
	"SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGILL": 4, "SIGTRAP": 5, "SIGABRT": 6, "SIGBUS": 7, "SIGFPE": 8,
	"SIGKILL": 9, "SIGUSR1": 10, "SIGSEGV": 11, "SIGUSR2": 12, "SIGPIPE": 13, "SIGALRM": 14, "SIGTERM": 15,
	"SIGSTKFLT": 16, "SIGCHLD": 17, "SIGCONT": 18, "SIGSTOP": 19, "SIGTSTP": 20, "SIGTTIN": 21, "SIGTTOU": 22,
	"SIGURG": 23, "SIGXCPU": 24, "SIGXFSZ": 25, "SIGVTALRM": 26, "SIGPROF": 27, "SIGWINCH": 28, "SIGIO": 29,
	"SIGPWR": 30, "SIGSYS": 31, "SIGRTMIN": 34, "SIGRTMAX": 64,
}

// harmless signals do nothing to a process that does not trap them.
var harmless = map[string]bool{
	"SIGCHLD": true, "SIGCONT": true, "SIGURG": true, "SIGWINCH": true,
	"SIGSTOP": true, "SIGTSTP": true, "SIGTTIN": true, "SIGTTOU": true, // stopping is not simulated
}

// signalNumber is 0 for a name that is not canonical.
func signalNumber(name string) int32 {
	if n, ok := strings.CutPrefix(name, "SIGRTMIN+"); ok {
		if i, err := strconv.Atoi(n); err == nil && i >= 0 && i <= 30 {
			return int32(34 + i)
		}
		return 0
	}
	return signals[name]
}

func canonicalSignal(name string) string {
	if strings.HasPrefix(name, "SIG") {
		return name
	}
	return "SIG" + name
}

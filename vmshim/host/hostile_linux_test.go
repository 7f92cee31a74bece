package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/backend/backendrpc"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// pipeMachine is a machine that is a pipe.
type pipeMachine struct {
	port net.Conn
	once sync.Once
	done chan struct{}
}

func (m *pipeMachine) Port(string) net.Conn                         { return m.port }
func (m *pipeMachine) SetDisk(context.Context, int, *os.File) error { return nil }
func (m *pipeMachine) ClearDisk(context.Context, int) error         { return nil }
func (m *pipeMachine) Pause(context.Context) error                  { return nil }
func (m *pipeMachine) Resume(context.Context) error                 { return nil }
func (m *pipeMachine) Save(context.Context) (*vmm.Template, error)  { return nil, errors.New("no") }
func (m *pipeMachine) Console() string                              { return "last words\x1b[2J" }
func (m *pipeMachine) PID() int                                     { return 1 }
func (m *pipeMachine) Done() <-chan struct{}                        { return m.done }

func (m *pipeMachine) Err() error {
	select {
	case <-m.done:
		return vmm.ErrKilled
	default:
		return nil
	}
}

func (m *pipeMachine) Kill() error {
	m.once.Do(func() {
		close(m.done)
		_ = m.port.Close()
	})
	return nil
}

// newShim is a shim of a machine whose guest has the other end of the pipe.
func newShim(t *testing.T) (*shim, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "port")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := &pipeMachine{port: ends[0], done: make(chan struct{})}
	s := &shim{
		cfg: &Config{Sandbox: "box", Clone: &CloneFiles{}, Shape: vmm.Shape{Memory: 256 << 20, CPUs: 1}},
		dir: dir, machine: m, ready: make(chan struct{}), events: newEvents(), containers: map[string]*container{},
	}
	s.gate.machine = m
	s.connect()
	t.Cleanup(func() {
		_ = m.Kill()
		_ = s.guest.Close()
		_ = ends[1].Close()
		_ = dir.Close()
	})
	return s, ends[1]
}

// A guest that sends anything but the protocol gets an error out of every call,
// and nothing else.
func TestGarbage(t *testing.T) {
	random := make([]byte, 1<<20)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	// SETTINGS, then a frame that claims 16 MiB; a header block that never ends.
	settings := []byte{0, 0, 0, 4, 0, 0, 0, 0, 0}
	for name, garbage := range map[string][]byte{
		"random":     random,
		"zeros":      make([]byte, 1<<20),
		"huge frame": append(bytes.Clone(settings), 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1),
		"headers":    append(bytes.Clone(settings), bytes.Repeat([]byte{0, 0, 4, 1, 0, 0, 0, 0, 1, 0x40, 1, 'a', 0}, 10000)...),
		"greeting":   []byte(strings.Repeat(guestpb.Greeting, 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			s, guest := newShim(t)
			go func() { _, _ = io.Copy(io.Discard, guest) }()
			go func() {
				_, _ = guest.Write(garbage)
				_ = guest.Close()
			}()
			if _, err := s.Stats(t.Context(), "c"); err == nil {
				t.Error("Stats of garbage")
			}
			if err := s.Update(t.Context(), &backendpb.UpdateRequest{}); err == nil {
				t.Error("Update of garbage")
			}
		})
	}
}

// liar is a guest that speaks the protocol and says what it likes.
type liar struct {
	backend.Backend
	events []*backendpb.Event
}

func (l *liar) Create(context.Context, *backendpb.Container) (*backendpb.Status, error) {
	return &backendpb.Status{Pid: 1}, nil
}

func (l *liar) Start(context.Context, *backendpb.ProcessRef) (*backendpb.Status, error) {
	return &backendpb.Status{Pid: 1}, nil
}

func (l *liar) Delete(context.Context, *backendpb.ProcessRef) error { return nil }

func (l *liar) Stats(context.Context, string) (*backendpb.StatsReply, error) {
	r := &backendpb.StatsReply{
		Cpu:    &backendpb.CPUStats{Total: math.MaxUint64, PerCpu: make([]uint64, 100000)},
		Memory: &backendpb.MemoryStats{Usage: math.MaxUint64, Stats: map[string]uint64{"\x1b[2J": 1, "rss": 2}},
		Pids:   math.MaxUint64,
	}
	for range 10000 {
		r.Networks = append(r.Networks, &backendpb.NetworkStats{Name: "eth0\n", RxBytes: math.MaxUint64})
	}
	return r, nil
}

func (l *liar) StatPath(context.Context, *backendpb.PathRequest) (*backendpb.PathStat, error) {
	return &backendpb.PathStat{Name: "../../etc/passwd", Size: -1, Mode: math.MaxUint32}, nil
}

func (l *liar) Changes(context.Context, *backendpb.FilesTarget) (*backendpb.ChangesReply, error) {
	return &backendpb.ChangesReply{Changes: []*backendpb.Change{{Path: "/../../etc/passwd", Kind: 77}}}, nil
}

func (l *liar) ReadArchive(context.Context, *backendpb.PathRequest) (io.ReadCloser, error) {
	return nil, errdefs.ErrNotFound
}
func (l *liar) WriteArchive(context.Context, *backendpb.WriteTarget, io.Reader) error { return nil }
func (l *liar) ReadDiff(context.Context, *backendpb.FilesTarget) (io.ReadCloser, error) {
	return nil, errdefs.ErrNotFound
}

// over is an attachment that ends at once.
type over struct{}

func (over) Recv() (*backendpb.AttachOutput, error) { return nil, io.EOF }
func (over) Send([]byte) error                      { return nil }
func (over) CloseStdin() error                      { return nil }
func (over) Close() error                           { return nil }

func (l *liar) Attach(context.Context, *backendpb.AttachOpen) (backend.Streams, error) {
	return over{}, nil
}

func (l *liar) Events(ctx context.Context, _ uint64) (backend.EventStream, error) {
	return &invented{ctx: ctx, list: l.events}, nil
}

// invented are events, then silence.
type invented struct {
	ctx  context.Context
	list []*backendpb.Event
}

func (e *invented) Recv() (*backendpb.Event, error) {
	if len(e.list) == 0 {
		<-e.ctx.Done()
		return nil, e.ctx.Err()
	}
	ev := e.list[0]
	e.list = e.list[1:]
	return ev, nil
}

// single is a listener for one connection.
type single struct{ c chan net.Conn }

func (l *single) Accept() (net.Conn, error) {
	if c, ok := <-l.c; ok {
		return c, nil
	}
	return nil, io.EOF
}
func (l *single) Close() error   { return nil }
func (l *single) Addr() net.Addr { return &net.UnixAddr{} }

func serve(t *testing.T, guest net.Conn, b backend.Backend) {
	t.Helper()
	srv := grpc.NewServer(backendrpc.ServerOptions()...)
	backendrpc.Register(srv, b)
	l := &single{c: make(chan net.Conn, 1)}
	l.c <- guest
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() {
		close(l.c)
		srv.Stop()
	})
}

func fifo(t *testing.T, s *shim, container, exec string) {
	t.Helper()
	for _, stream := range streamNames {
		if err := unix.Mkfifo(filepath.Join(s.dir.Name(), FIFO(container, exec, stream)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// What a guest says beyond what can be true is not passed on.
func TestLies(t *testing.T) {
	s, guest := newShim(t)
	ref := &backendpb.ProcessRef{Container: "c"}
	exit := func(p *backendpb.ProcessRef, code int32) *backendpb.Event {
		return &backendpb.Event{Type: backendpb.Event_EXITED, Process: p, Exit: &backendpb.Exit{Code: code, Reason: "\x1b[2Jbecause", At: -5}}
	}
	serve(t, guest, &liar{events: []*backendpb.Event{
		exit(&backendpb.ProcessRef{Container: "another"}, 0),
		{Type: backendpb.Event_Type(99), Process: ref},
		{Type: backendpb.Event_STARTED, Process: ref}, {Type: backendpb.Event_STARTED, Process: ref},
		{Type: backendpb.Event_OOM, Process: ref}, {Type: backendpb.Event_OOM, Process: ref}, {Type: backendpb.Event_OOM, Process: ref},
		exit(ref, 100000), exit(ref, 0), {Type: backendpb.Event_STARTED, Process: ref},
	}})
	ctx := t.Context()
	fifo(t, s, "c", "")
	if _, err := s.Create(ctx, &backendpb.Container{Id: "c"}); err != nil {
		t.Fatal(err)
	}
	go s.follow()
	stream, err := s.Events(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		ev, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ev.GetType().String())
		if ev.GetProcess().GetContainer() != "c" {
			t.Errorf("an event of %v", ev.GetProcess())
		}
		if ev.GetType() == backendpb.Event_EXITED {
			x := ev.GetExit()
			if x.GetCode() != 255 || !x.GetUnknown() || strings.ContainsRune(x.GetReason(), '\x1b') || x.GetAt() <= 0 {
				t.Errorf("exit %v", x)
			}
			break
		}
	}
	if strings.Join(got, " ") != "STARTED OOM EXITED" {
		t.Errorf("events: %v", got)
	}
	st, err := s.Stats(ctx, "c")
	if err != nil {
		t.Fatal(err)
	}
	if st.GetMemory().GetUsage() > uint64(s.cfg.Shape.Memory) || len(st.GetCpu().GetPerCpu()) > 1 || len(st.GetNetworks()) != 0 || len(st.GetMemory().GetStats()) != 1 {
		t.Errorf("stats: %d bytes, %d processors, %d networks, %v", st.GetMemory().GetUsage(), len(st.GetCpu().GetPerCpu()), len(st.GetNetworks()), st.GetMemory().GetStats())
	}
	if r, err := s.StatPath(ctx, &backendpb.PathRequest{}); err == nil {
		t.Errorf("StatPath: %v", r)
	}
	if r, err := s.Changes(ctx, &backendpb.FilesTarget{}); err == nil {
		t.Errorf("Changes: %v", r)
	}
}

// When its machine ends, a process's end is told with the reason, once.
func TestMachineEnds(t *testing.T) {
	s, guest := newShim(t)
	serve(t, guest, &liar{})
	ctx := t.Context()
	fifo(t, s, "c", "")
	if _, err := s.Create(ctx, &backendpb.Container{Id: "c"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(ctx, &backendpb.ProcessRef{Container: "c"}); err != nil {
		t.Fatal(err)
	}
	go s.watch()
	_ = s.machine.Kill()
	stream, _ := s.Events(ctx, 0)
	for {
		ev, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if ev.GetType() != backendpb.Event_EXITED {
			continue
		}
		if x := ev.GetExit(); x.GetCode() != killedCode || !strings.Contains(x.GetReason(), "virtual machine") {
			t.Errorf("exit %v", x)
		}
		break
	}
	if _, err := s.Stats(ctx, "c"); !errdefs.IsUnavailable(err) {
		t.Errorf("Stats of a machine that is gone: %v", err)
	}
}

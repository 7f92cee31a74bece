package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/backend/backendrpc"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
)

func main() {
	for _, m := range []struct{ fs, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m.fs, m.at, m.fs, 0, ""); err != nil {
			fmt.Println("liar:", m.at, err)
		}
	}
	port := openPort()
	if _, err := os.Stat("/bin/silent"); err == nil {
		forever() // does not even greet
	}
	l := &liar{port: port, told: make(chan *backendpb.Event, 16)}
	s := grpc.NewServer(append(backendrpc.ServerOptions(), grpc.ConnectionTimeout(365*24*time.Hour), grpc.MaxSendMsgSize(math.MaxInt32))...)
	backendrpc.Register(s, l)
	guestpb.RegisterGuestServer(s, &agent{liar: l})
	if _, err := port.Write([]byte(guestpb.Greeting)); err != nil {
		fmt.Println("liar:", err)
	}
	fmt.Println("liar:", s.Serve(&listener{conn: port}))
	forever()
}

// forever waits, in a program of which nothing else may go on.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// liar makes no container, and says that it did.
type liar struct {
	backend.Backend
	port net.Conn
	told chan *backendpb.Event

	mu   sync.Mutex
	mode string
	ref  *backendpb.ProcessRef
}

func (l *liar) is(mode string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mode == mode
}

func (l *liar) tell(e *backendpb.Event) { l.told <- e }

func (l *liar) exit(code int32, reason string) {
	l.tell(&backendpb.Event{Type: backendpb.Event_EXITED, Process: l.ref, Exit: &backendpb.Exit{Code: code, Reason: reason}})
}

// lies are what the liar does once its container was started, by host name.
var lies = map[string]func(*liar){
	// It answers nothing any more; see answer.
	"deaf": func(*liar) {},
	// It says that it kills, and does not.
	"immortal": func(*liar) {},
	// What it sends is not the protocol.
	"garbage": func(l *liar) {
		for {
			b := make([]byte, 32<<10)
			_, _ = rand.Read(b)
			if _, err := l.port.Write(b); err != nil {
				return
			}
		}
	},
	// Messages that are too large.
	"huge": func(l *liar) {
		huge := strings.Repeat("x", backendrpc.MaxMessage)
		l.tell(&backendpb.Event{Type: backendpb.Event_EXITED, Process: l.ref, Exit: &backendpb.Exit{Reason: huge}})
	},
	// Events without end, of processes that are not there.
	"events": func(l *liar) {
		for n := 0; ; n++ {
			l.tell(&backendpb.Event{Type: backendpb.Event_EXITED, Process: &backendpb.ProcessRef{Container: fmt.Sprint("other", n)}, Exit: &backendpb.Exit{}})
		}
	},
	// Output without end; see Attach.
	"output": func(*liar) {},
	// An end that cannot be, with words that a terminal would obey.
	"lies": func(l *liar) { l.exit(math.MaxInt32, "\x1b[2Jbecause"+strings.Repeat("!", 1<<20)) },
	// The machine ends.
	"panic":    func(*liar) { os.Exit(3) },
	"shutdown": func(*liar) { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) },
}

// answer waits for ever in a guest that is deaf.
func (l *liar) answer() {
	if l.is("deaf") {
		forever()
	}
}

func (l *liar) Info(context.Context) (*backendpb.InfoReply, error) {
	return &backendpb.InfoReply{}, nil
}

func (l *liar) Open(context.Context, *backendpb.Sandbox) error { return nil }
func (l *liar) Close(context.Context, string) error            { return nil }

func (l *liar) Create(_ context.Context, c *backendpb.Container) (*backendpb.Status, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ref = &backendpb.ProcessRef{Container: c.GetId()}
	return &backendpb.Status{Pid: 1}, nil
}

func (l *liar) Start(context.Context, *backendpb.ProcessRef) (*backendpb.Status, error) {
	l.mu.Lock()
	lie := lies[l.mode]
	l.mu.Unlock()
	go func() {
		time.Sleep(100 * time.Millisecond) // after the answer
		lie(l)
	}()
	return &backendpb.Status{Pid: 1}, nil
}

func (l *liar) Delete(context.Context, *backendpb.ProcessRef) error {
	l.answer()
	return nil
}

func (l *liar) Signal(_ context.Context, r *backendpb.SignalRequest) error {
	l.answer()
	return nil
}

func (l *liar) Stats(context.Context, string) (*backendpb.StatsReply, error) {
	l.answer()
	return &backendpb.StatsReply{Memory: &backendpb.MemoryStats{Usage: math.MaxUint64}, Pids: math.MaxUint64}, nil
}

func (l *liar) Exec(context.Context, *backendpb.ExecSpec) error {
	l.answer()
	return errors.New("\x1b[2Jno " + strings.Repeat("!", 1<<20))
}

func (l *liar) Attach(context.Context, *backendpb.AttachOpen) (backend.Streams, error) {
	return &stream{liar: l, done: make(chan struct{})}, nil
}

// stream is an attachment.
type stream struct {
	liar *liar
	once sync.Once
	done chan struct{}
}

var flood = []byte(strings.Repeat("flood ", 10<<10))

func (s *stream) Recv() (*backendpb.AttachOutput, error) {
	switch {
	case s.liar.is("output"):
		return &backendpb.AttachOutput{Stream: backendpb.AttachOutput_STDOUT, Data: flood}, nil
	case s.liar.is("lies"):
		return nil, io.EOF
	}
	<-s.done
	return nil, io.EOF
}

func (s *stream) Send([]byte) error { return nil }
func (s *stream) CloseStdin() error { return nil }

func (s *stream) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

func (l *liar) Events(ctx context.Context, _ uint64) (backend.EventStream, error) {
	return &told{ctx, l.told}, nil
}

type told struct {
	ctx  context.Context
	list chan *backendpb.Event
}

func (t *told) Recv() (*backendpb.Event, error) {
	select {
	case e := <-t.list:
		return e, nil
	case <-t.ctx.Done():
		return nil, t.ctx.Err()
	}
}

// agent is the Guest service.
type agent struct {
	guestpb.UnimplementedGuestServer
	liar *liar
}

// Setup tells who this machine is to be.
func (a *agent) Setup(_ context.Context, r *guestpb.SetupRequest) (*guestpb.SetupReply, error) {
	a.liar.mu.Lock()
	a.liar.mode = r.GetHostname()
	a.liar.mu.Unlock()
	if a.liar.is("mute") {
		forever()
	}
	return &guestpb.SetupReply{Protocol: guestpb.Protocol, Version: strings.Repeat("v", 1<<20), Kernel: "\x1b[2J"}, nil
}

func (a *agent) Prepare(context.Context, *guestpb.PrepareRequest) (*guestpb.Empty, error) {
	return &guestpb.Empty{}, nil
}

func (a *agent) Shutdown(context.Context, *guestpb.Empty) (*guestpb.Empty, error) {
	a.liar.answer()
	return &guestpb.Empty{}, nil
}

// openPort waits for the channel to the host.
func openPort() net.Conn {
	for {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, file := range names {
			name, _ := os.ReadFile(file)
			if strings.TrimSpace(string(name)) != guestpb.Port {
				continue
			}
			if f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0); err == nil {
				return conn{f}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// conn is the channel as a connection.
type conn struct{ *os.File }

func (c conn) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := c.File.Write(p[done:min(len(p), done+32<<10)])
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

func (conn) LocalAddr() net.Addr  { return &net.UnixAddr{} }
func (conn) RemoteAddr() net.Addr { return &net.UnixAddr{} }

// listener is one for the connection that there is.
type listener struct {
	once sync.Once
	conn net.Conn
}

func (l *listener) Accept() (c net.Conn, err error) {
	l.once.Do(func() { c = l.conn })
	if c == nil {
		forever()
	}
	return c, nil
}

func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return &net.UnixAddr{} }

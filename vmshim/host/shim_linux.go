package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/caisson-engine/caisson/engine/backend/backendrpc"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
	"github.com/caisson-engine/caisson/vmshim/vmm"
)

const (
	// bootTimeout is how long a booting guest may take to greet.
	bootTimeout = 60 * time.Second
	// callTimeout is how long a guest may take to answer a call.
	callTimeout = 60 * time.Second
	// signalTimeout is how long it may take to send a signal: who sends one waits for
	// it, and wants a container gone whose guest no longer answers.
	signalTimeout = 10 * time.Second
	// dieTimeout is how long a container's end may take after it was killed.
	dieTimeout = 20 * time.Second
	// drainTimeout is how long the output of a deleted process may take to end.
	drainTimeout = 5 * time.Second
	// lastWordsTimeout is how long a machine's end may take after its agent's.
	lastWordsTimeout = 5 * time.Second
	// shutdownTimeout is how long it may take to write its disks back.
	shutdownTimeout = 20 * time.Second
)

// shim is stage 1: one machine and what is known of its containers.
type shim struct {
	cfg     *Config
	dir     *os.File // of the FIFOs
	machine vmm.Machine
	server  *grpc.Server

	ready chan struct{} // closed once conn is there, or bootErr
	// What follows is set before ready is closed.
	bootErr error
	guest   *grpc.ClientConn
	remote  *backendrpc.Remote
	agent   guestpb.GuestClient

	events *events
	held   []*os.File // for the backend; used by control alone

	mu         sync.Mutex
	containers map[string]*container
	condemned  error // why we ended the machine, if we did

	// gate keeps the machine's processors running while calls are under way, and
	// stopped between them while it is paused.
	gate gate
}

// guarded is stage 1.
func guarded() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	c, err := readConfig()
	if err != nil {
		return err
	}
	if c.Handed == nil {
		return errors.New("there is no machine to guard")
	}
	for _, fd := range []int{ConfigFD, ListenerFD, IODirFD, ControlFD, NetnsFD} {
		unix.CloseOnExec(fd)
	}
	listener, err := net.FileListener(inherited(ListenerFD, "listener"))
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if u, ok := listener.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	ctl, err := openControl()
	if err != nil {
		return err
	}
	s := &shim{
		cfg: c, dir: inherited(IODirFD, "output"), ready: make(chan struct{}),
		events: newEvents(), containers: map[string]*container{},
	}
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout)
	s.machine, err = vmm.Attach(ctx, vmm.Receive(*c.Handed))
	cancel()
	if err != nil {
		_ = ctl.reply(reply{Error: err.Error()}, nil)
		return err
	}
	s.gate.machine = s.machine
	s.server = grpc.NewServer(append(backendrpc.ServerOptions(), grpc.ConnectionTimeout(5*time.Second))...)
	backendrpc.Register(s.server, s)
	guestpb.RegisterGuestServer(s.server, &relay{shim: s})
	// From here on the guest is heard.
	if err := vmm.Guard(); err != nil {
		_ = ctl.reply(reply{Error: err.Error()}, nil)
		return fmt.Errorf("system call filter: %w", err)
	}
	if err := ctl.reply(reply{PID: s.machine.PID()}, nil); err != nil {
		return err
	}
	go s.control(ctl)
	go s.connect()
	go s.watch()
	return s.server.Serve(listener)
}

// connect waits for the guest's agent.
func (s *shim) connect() {
	defer close(s.ready)
	conn := s.machine.Port(guestpb.Port)
	if s.cfg.Clone == nil {
		if err := greeted(conn); err != nil {
			// If the machine has ended that says more.
			select {
			case <-s.machine.Done():
				err = s.machine.Err()
			case <-time.After(time.Second):
			}
			s.bootErr = fmt.Errorf("the guest did not come up: %w%s", err, lastWords(s.machine.Console()))
			return
		}
	}
	if s.cfg.Savable {
		return // nobody may have spoken to what becomes a template
	}
	var once sync.Once
	dial := func(context.Context, string) (c net.Conn, err error) {
		err = fmt.Errorf("the guest's connection broke: %w", errdefs.ErrUnavailable)
		once.Do(func() { c, err = conn, nil })
		return c, err
	}
	s.guest, s.bootErr = grpc.NewClient("passthrough:guest", append(backendrpc.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial),
		grpc.WithMaxHeaderListSize(16<<10))...)
	if s.bootErr == nil {
		s.remote, s.agent = backendrpc.New(s.guest), guestpb.NewGuestClient(s.guest)
	}
}

// greeted waits for the agent's greeting, and takes nothing else.
func greeted(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(bootTimeout)); err != nil {
		return err
	}
	defer func() { _ = conn.SetReadDeadline(time.Time{}) }()
	buf := make([]byte, len(guestpb.Greeting))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return err
	}
	if string(buf) != guestpb.Greeting {
		return fmt.Errorf("its agent is none that this version knows: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// await waits until the guest can be called.
func (s *shim) await(ctx context.Context) error {
	select {
	case <-s.ready:
	case <-s.machine.Done():
		return s.gone()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.bootErr != nil {
		return fmt.Errorf("%w (%w)", s.bootErr, errdefs.ErrUnavailable)
	}
	return nil
}

// gone is why the machine ended, for a call that it did not answer.
func (s *shim) gone() error {
	return fmt.Errorf("%w%s (%w)", s.ending(), lastWords(s.machine.Console()), errdefs.ErrUnavailable)
}

// condemn ends a machine that is of no use any more.
func (s *shim) condemn(why string) {
	s.mu.Lock()
	if s.condemned == nil {
		s.condemned = fmt.Errorf("%w: %s", vmm.ErrKilled, why)
	}
	s.mu.Unlock()
	_ = s.machine.Kill()
}

// ending is why the machine ended.
func (s *shim) ending() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.machine.Err(); s.condemned == nil || !errors.Is(err, vmm.ErrKilled) {
		return err
	}
	return s.condemned
}

// watch tells of the machine's end.
func (s *shim) watch() {
	go s.follow()
	<-s.machine.Done()
	if s.guest != nil {
		_ = s.guest.Close()
	}
	s.allEnded(s.ending())
}

// control serves the control socket until the backend is gone.
func (s *shim) control(c *control) {
	for {
		var r request
		files, err := c.receive(&r, 1)
		if err != nil {
			return
		}
		answer, out := s.obey(r, files)
		if r.Op != "hold" {
			closeAll(files)
		}
		err = c.reply(answer, out)
		closeAll(out)
		if err != nil {
			return
		}
	}
}

func (s *shim) obey(r request, files []*os.File) (reply, []*os.File) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	switch {
	case r.Op == "disk" && len(files) == 1:
		if err := s.machine.SetDisk(ctx, r.Slot, files[0]); err != nil {
			return reply{Error: err.Error()}, nil
		}
		return reply{}, nil
	case r.Op == "clear":
		if err := s.machine.ClearDisk(ctx, r.Slot); err != nil {
			return reply{Error: err.Error()}, nil
		}
		return reply{}, nil
	case r.Op == "hold" && len(files) == 1:
		s.held = append(s.held, files...)
		return reply{}, nil
	case r.Op == "port":
		f, err := s.handOver(r.Port)
		if err != nil {
			return reply{Error: err.Error()}, nil
		}
		return reply{}, []*os.File{f}
	case r.Op == "save":
		if err := s.await(ctx); err != nil {
			return reply{Error: err.Error()}, nil
		}
		t, err := s.machine.Save(ctx)
		if err != nil {
			return reply{Error: err.Error()}, nil
		}
		return reply{Key: t.Key}, []*os.File{t.Memory, t.State}
	}
	return reply{Error: fmt.Sprintf("no such request: %q with %d files", r.Op, len(files))}, nil
}

// handOver gives a port away that this process does not listen to.
func (s *shim) handOver(name string) (*os.File, error) {
	conn, ok := s.machine.Port(name).(*net.UnixConn)
	if !ok || name == guestpb.Port {
		return nil, fmt.Errorf("there is no port %q to give away", name)
	}
	f, err := conn.File()
	return f, errors.Join(err, conn.Close())
}

// end ends machine and process, once the answer to Close is on its way.
func (s *shim) end() {
	_ = s.machine.Kill()
	go func() {
		s.server.GracefulStop()
		os.Exit(0)
	}()
	time.AfterFunc(time.Second, func() { os.Exit(0) })
}

// relay is the Guest service towards the backend.
type relay struct {
	guestpb.UnimplementedGuestServer
	shim *shim
}

// Setup is guestpb.GuestServer. Entropy is of this process: one secret less that
// travels.
func (r *relay) Setup(ctx context.Context, q *guestpb.SetupRequest) (*guestpb.SetupReply, error) {
	q.Entropy = make([]byte, 64)
	if _, err := rand.Read(q.Entropy); err != nil {
		return nil, err
	}
	return call(ctx, r.shim, func(ctx context.Context) (*guestpb.SetupReply, error) {
		q.Time = time.Now().UnixNano()
		a, err := r.shim.agent.Setup(ctx, q)
		if err != nil {
			return nil, err
		}
		if a.GetProtocol() != guestpb.Protocol {
			return nil, fmt.Errorf("the guest speaks protocol %d: %w", a.GetProtocol(), errdefs.ErrFailedPrecondition)
		}
		return &guestpb.SetupReply{Protocol: a.GetProtocol(), Version: clean(a.GetVersion(), 64), Kernel: clean(a.GetKernel(), 128)}, nil
	})
}

// Prepare is guestpb.GuestServer.
func (r *relay) Prepare(ctx context.Context, q *guestpb.PrepareRequest) (*guestpb.Empty, error) {
	return call(ctx, r.shim, func(ctx context.Context) (*guestpb.Empty, error) { return r.shim.agent.Prepare(ctx, q) })
}

// Warm is guestpb.GuestServer.
func (r *relay) Warm(ctx context.Context, q *guestpb.WarmRequest) (*guestpb.Empty, error) {
	return call(ctx, r.shim, func(ctx context.Context) (*guestpb.Empty, error) { return r.shim.agent.Warm(ctx, q) })
}

// Usage is guestpb.GuestServer. No disk holds more than a file may.
func (r *relay) Usage(ctx context.Context, q *guestpb.UsageRequest) (*guestpb.UsageReply, error) {
	return call(ctx, r.shim, func(ctx context.Context) (*guestpb.UsageReply, error) {
		a, err := r.shim.agent.Usage(ctx, q)
		return &guestpb.UsageReply{Bytes: min(max(a.GetBytes(), 0), r.shim.cfg.FileSize)}, err
	})
}

// Shutdown is guestpb.GuestServer.
func (r *relay) Shutdown(ctx context.Context, _ *guestpb.Empty) (*guestpb.Empty, error) {
	return &guestpb.Empty{}, r.shim.shutdown(ctx)
}

func (s *shim) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	_, err := call(ctx, s, func(ctx context.Context) (*guestpb.Empty, error) { return s.agent.Shutdown(ctx, &guestpb.Empty{}) })
	return err
}

// call makes a call to the guest: bounded in time, with the machine running
// meanwhile, and with an error that says why if the machine ended.
func call[T any](ctx context.Context, s *shim, do func(context.Context) (T, error)) (T, error) {
	var none T
	if err := s.await(ctx); err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	leave, err := s.gate.enter(ctx)
	if err != nil {
		return none, err
	}
	defer leave()
	v, err := do(ctx)
	if err != nil {
		return none, s.told(err)
	}
	return v, nil
}

var errSilent = fmt.Errorf("the guest does not answer: %w", errdefs.ErrUnavailable)

// told is an error that came from the guest, with its words cut and cleaned.
func (s *shim) told(err error) error {
	select {
	case <-s.machine.Done():
		return s.gone()
	default:
	}
	if errors.Is(err, context.DeadlineExceeded) || errdefs.IsDeadlineExceeded(err) {
		return errSilent
	}
	return cleanError(err)
}

// gate lets calls through to a machine that may be paused: its processors run
// while there are calls, and stop again with the last.
type gate struct {
	machine vmm.Machine

	mu     sync.Mutex
	paused bool
	inside int
}

func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paused && g.inside == 0 {
		if err := g.machine.Resume(ctx); err != nil {
			return nil, err
		}
	}
	g.inside++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.inside--; g.inside == 0 && g.paused {
			g.stop()
		}
	}), nil
}

// stop stops the processors. A machine that cannot be stopped goes on: what is
// paused in it is frozen in any case.
func (g *gate) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	_ = g.machine.Pause(ctx)
}

// set says whether the machine is to stand still.
func (g *gate) set(ctx context.Context, paused bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paused == paused {
		return nil
	}
	g.paused = paused
	if g.inside > 0 {
		return nil
	}
	if paused {
		g.stop()
		return nil
	}
	return g.machine.Resume(ctx)
}

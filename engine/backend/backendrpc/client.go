package backendrpc

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// Remote is a backend at the other end of a gRPC connection. It has every
// optional interface of the contract: what the backend lacks answers
// NotImplemented, and Info tells which. The interceptors give errors their kind
// back.
type Remote struct {
	rpc backendpb.BackendClient
}

var (
	_ backend.Backend       = (*Remote)(nil)
	_ backend.Pauser        = (*Remote)(nil)
	_ backend.ProcessLister = (*Remote)(nil)
	_ backend.Measurer      = (*Remote)(nil)
	_ backend.Files         = (*Remote)(nil)
)

// New is the backend at the other end of a connection that was made with
// DialOptions.
func New(c grpc.ClientConnInterface) *Remote {
	return &Remote{rpc: backendpb.NewBackendClient(c)}
}

func unaryFromWire(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return errgrpc.ToNative(invoke(ctx, method, req, reply, cc, opts...))
}

func streamFromWire(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	return nativeStream{s}, nil
}

// nativeStream is a stream whose errors have their kind, but for io.EOF.
type nativeStream struct{ grpc.ClientStream }

func (s nativeStream) RecvMsg(m any) error { return native(s.ClientStream.RecvMsg(m)) }
func (s nativeStream) SendMsg(m any) error { return native(s.ClientStream.SendMsg(m)) }

func native(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return errgrpc.ToNative(err)
}

func (r *Remote) Info(ctx context.Context) (*backendpb.InfoReply, error) {
	return r.rpc.Info(ctx, &backendpb.InfoRequest{})
}

func (r *Remote) Open(ctx context.Context, s *backendpb.Sandbox) error {
	_, err := r.rpc.Open(ctx, s)
	return err
}

func (r *Remote) Close(ctx context.Context, id string) error {
	_, err := r.rpc.Close(ctx, &backendpb.SandboxRef{Id: id})
	return err
}

func (r *Remote) Create(ctx context.Context, c *backendpb.Container) (*backendpb.Status, error) {
	return r.rpc.Create(ctx, c)
}

func (r *Remote) Start(ctx context.Context, p *backendpb.ProcessRef) (*backendpb.Status, error) {
	st, err := r.rpc.Start(ctx, p)
	if err != nil {
		return nil, err
	}
	if f := st.GetFailure(); f != nil {
		return nil, &backend.ExecError{Kind: f.GetKind(), Message: f.GetMessage()}
	}
	return st, nil
}

func (r *Remote) Exec(ctx context.Context, e *backendpb.ExecSpec) error {
	_, err := r.rpc.Exec(ctx, e)
	return err
}

func (r *Remote) Resize(ctx context.Context, q *backendpb.ResizeRequest) error {
	_, err := r.rpc.Resize(ctx, q)
	return err
}

func (r *Remote) Signal(ctx context.Context, s *backendpb.SignalRequest) error {
	_, err := r.rpc.Signal(ctx, s)
	return err
}

func (r *Remote) State(ctx context.Context, id string) (*backendpb.ContainerState, error) {
	return r.rpc.State(ctx, &backendpb.ContainerRef{Id: id})
}

func (r *Remote) List(ctx context.Context) (*backendpb.ListReply, error) {
	return r.rpc.List(ctx, &backendpb.ListRequest{})
}

func (r *Remote) Stats(ctx context.Context, id string) (*backendpb.StatsReply, error) {
	return r.rpc.Stats(ctx, &backendpb.ContainerRef{Id: id})
}

func (r *Remote) Update(ctx context.Context, u *backendpb.UpdateRequest) error {
	_, err := r.rpc.Update(ctx, u)
	return err
}

func (r *Remote) Delete(ctx context.Context, p *backendpb.ProcessRef) error {
	_, err := r.rpc.Delete(ctx, p)
	return err
}

// Events returns once the backend has the subscription.
func (r *Remote) Events(ctx context.Context, after uint64) (backend.EventStream, error) {
	s, err := r.rpc.Events(ctx, &backendpb.EventsRequest{After: after})
	if err != nil {
		return nil, err
	}
	return s, connected(s)
}

// Attach returns once the backend has connected the streams. ctx bounds that
// wait only; the attachment then lasts until Close or the end of the process.
func (r *Remote) Attach(ctx context.Context, a *backendpb.AttachOpen) (backend.Streams, error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	s, err := r.attach(life, a)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &streams{s: s, cancel: cancel}, nil
}

func (r *Remote) attach(ctx context.Context, a *backendpb.AttachOpen) (attachClient, error) {
	s, err := r.rpc.Attach(ctx)
	if err != nil {
		return nil, err
	}
	// A failure to send only says io.EOF: the reason is what Recv returns.
	if err := s.Send(&backendpb.AttachInput{Open: a}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	_, err = s.Recv()
	return s, err
}

type attachClient = grpc.BidiStreamingClient[backendpb.AttachInput, backendpb.AttachOutput]

// streams is one attachment as the engine sees it.
type streams struct {
	s      attachClient
	cancel context.CancelFunc

	mu     sync.Mutex // keeps Send and CloseStdin apart
	closed bool       // Close was called
}

func (s *streams) Recv() (*backendpb.AttachOutput, error) {
	out, err := s.s.Recv()
	if err != nil {
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		s.cancel()
		if closed {
			return nil, io.EOF
		}
	}
	return out, err
}

func (s *streams) Send(data []byte) error {
	for len(data) > 0 {
		n := min(len(data), chunkSize)
		if err := s.s.Send(&backendpb.AttachInput{Data: data[:n]}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func (s *streams) CloseStdin() error {
	return s.s.Send(&backendpb.AttachInput{CloseStdin: true})
}

func (s *streams) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	return nil
}

func (r *Remote) Pause(ctx context.Context, id string) error {
	_, err := r.rpc.Pause(ctx, &backendpb.ContainerRef{Id: id})
	return err
}

func (r *Remote) Resume(ctx context.Context, id string) error {
	_, err := r.rpc.Resume(ctx, &backendpb.ContainerRef{Id: id})
	return err
}

func (r *Remote) Processes(ctx context.Context, id string) (*backendpb.ProcessesReply, error) {
	return r.rpc.Processes(ctx, &backendpb.ContainerRef{Id: id})
}

func (r *Remote) Usage(ctx context.Context, t *backendpb.FilesTarget) (*backendpb.UsageReply, error) {
	return r.rpc.Usage(ctx, t)
}

func (r *Remote) StatPath(ctx context.Context, q *backendpb.PathRequest) (*backendpb.PathStat, error) {
	return r.rpc.StatPath(ctx, q)
}

func (r *Remote) Changes(ctx context.Context, t *backendpb.FilesTarget) (*backendpb.ChangesReply, error) {
	return r.rpc.Changes(ctx, t)
}

func (r *Remote) ReadArchive(ctx context.Context, q *backendpb.PathRequest) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	s, err := r.rpc.ReadArchive(ctx, q)
	return readChunks(s, err, cancel)
}

func (r *Remote) ReadDiff(ctx context.Context, t *backendpb.FilesTarget) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	s, err := r.rpc.ReadDiff(ctx, t)
	return readChunks(s, err, cancel)
}

// readChunks makes a reader of a stream that was just opened with err.
func readChunks(s grpc.ServerStreamingClient[backendpb.Chunk], err error, cancel context.CancelFunc) (io.ReadCloser, error) {
	if err == nil {
		err = connected(s)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	next := func() ([]byte, error) {
		c, err := s.Recv()
		return c.GetData(), err
	}
	return &archive{chunkReader: chunkReader{next: next}, cancel: cancel}, nil
}

// archive is a tar that the backend sends; Close stops it.
type archive struct {
	chunkReader
	cancel context.CancelFunc
}

func (a *archive) Close() error {
	a.cancel()
	return nil
}

func (r *Remote) WriteArchive(ctx context.Context, t *backendpb.WriteTarget, tar io.Reader) error {
	// Leaving early, with an error from tar, must also end the backend's side.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := r.rpc.WriteArchive(ctx)
	if err != nil {
		return err
	}
	m := &backendpb.ArchiveInput{Target: t}
	buf := make([]byte, chunkSize)
	for {
		// io.EOF from Send says that the backend has answered already.
		if err := s.Send(m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		n, err := tar.Read(buf)
		if errors.Is(err, io.EOF) && n == 0 {
			break
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		m = &backendpb.ArchiveInput{Data: buf[:n]}
	}
	_, err = s.CloseAndRecv()
	return err
}

// connected waits for the other end's header, or for its refusal: a stream that
// ends without a header has its error for the first reader, so it is asked here.
func connected(s grpc.ClientStream) error {
	md, err := s.Header()
	if err != nil {
		return native(err)
	}
	if md == nil {
		return s.RecvMsg(&backendpb.Empty{})
	}
	return nil
}

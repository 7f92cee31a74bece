package backendrpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// server translates gRPC into calls of a backend. Error kinds are put on the
// wire by the interceptors, for all verbs in one place.
type server struct {
	backendpb.UnimplementedBackendServer
	b backend.Backend
}

// Register serves b on a server that was made with ServerOptions.
func Register(s grpc.ServiceRegistrar, b backend.Backend) {
	backendpb.RegisterBackendServer(s, &server{b: b})
}

var empty = &backendpb.Empty{}

func unaryToWire(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	reply, err := h(ctx, req)
	return reply, errgrpc.ToGRPC(err)
}

func streamToWire(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	return errgrpc.ToGRPC(h(srv, ss))
}

// optional returns b as an optional interface of the contract.
func optional[T any](b backend.Backend, capability string) (T, error) {
	t, ok := b.(T)
	if !ok {
		return t, fmt.Errorf("this backend has no capability %q: %w", capability, errdefs.ErrNotImplemented)
	}
	return t, nil
}

func (s *server) Info(ctx context.Context, _ *backendpb.InfoRequest) (*backendpb.InfoReply, error) {
	return s.b.Info(ctx)
}

func (s *server) Open(ctx context.Context, r *backendpb.Sandbox) (*backendpb.Empty, error) {
	return empty, s.b.Open(ctx, r)
}

func (s *server) Close(ctx context.Context, r *backendpb.SandboxRef) (*backendpb.Empty, error) {
	return empty, s.b.Close(ctx, r.GetId())
}

func (s *server) Create(ctx context.Context, r *backendpb.Container) (*backendpb.Status, error) {
	return s.b.Create(ctx, r)
}

// Start carries *backend.ExecError in the reply, where its fields survive.
func (s *server) Start(ctx context.Context, r *backendpb.ProcessRef) (*backendpb.Status, error) {
	st, err := s.b.Start(ctx, r)
	if failure, ok := errors.AsType[*backend.ExecError](err); ok {
		return &backendpb.Status{Failure: &backendpb.ExecFailure{Kind: failure.Kind, Message: failure.Message}}, nil
	}
	return st, err
}

func (s *server) Exec(ctx context.Context, r *backendpb.ExecSpec) (*backendpb.Empty, error) {
	return empty, s.b.Exec(ctx, r)
}

func (s *server) Resize(ctx context.Context, r *backendpb.ResizeRequest) (*backendpb.Empty, error) {
	return empty, s.b.Resize(ctx, r)
}

func (s *server) Signal(ctx context.Context, r *backendpb.SignalRequest) (*backendpb.Empty, error) {
	return empty, s.b.Signal(ctx, r)
}

func (s *server) State(ctx context.Context, r *backendpb.ContainerRef) (*backendpb.ContainerState, error) {
	return s.b.State(ctx, r.GetId())
}

func (s *server) List(ctx context.Context, _ *backendpb.ListRequest) (*backendpb.ListReply, error) {
	return s.b.List(ctx)
}

func (s *server) Stats(ctx context.Context, r *backendpb.ContainerRef) (*backendpb.StatsReply, error) {
	return s.b.Stats(ctx, r.GetId())
}

func (s *server) Update(ctx context.Context, r *backendpb.UpdateRequest) (*backendpb.Empty, error) {
	return empty, s.b.Update(ctx, r)
}

func (s *server) Delete(ctx context.Context, r *backendpb.ProcessRef) (*backendpb.Empty, error) {
	return empty, s.b.Delete(ctx, r)
}

func (s *server) Events(r *backendpb.EventsRequest, out grpc.ServerStreamingServer[backendpb.Event]) error {
	events, err := s.b.Events(out.Context(), r.GetAfter())
	if err != nil {
		return err
	}
	// An early header tells the client that the subscription stands.
	if err := out.SendHeader(nil); err != nil {
		return err
	}
	for {
		ev, err := events.Recv()
		if err != nil {
			return eof(err)
		}
		if err := out.Send(ev); err != nil {
			return err
		}
	}
}

// Attach pumps output out in this goroutine and input in another, which ends
// with the stream's context.
func (s *server) Attach(stream grpc.BidiStreamingServer[backendpb.AttachInput, backendpb.AttachOutput]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetOpen() == nil {
		return fmt.Errorf("the first message of an attachment must open it: %w", errdefs.ErrInvalidArgument)
	}
	streams, err := s.b.Attach(stream.Context(), first.GetOpen())
	if err != nil {
		return err
	}
	// Detaching cannot fail in a way that anybody could act on.
	detach := func() { _ = streams.Close() }
	defer detach()
	defer context.AfterFunc(stream.Context(), detach)()
	if err := stream.Send(&backendpb.AttachOutput{}); err != nil {
		return err
	}
	go feed(stream, streams)
	for {
		out, err := streams.Recv()
		if err != nil {
			return eof(err)
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

// feed gives input to the process until the client closes its side. Once the
// process refuses input, the rest is read and dropped, so that a client that
// writes on does not wait for ever.
func feed(stream grpc.BidiStreamingServer[backendpb.AttachInput, backendpb.AttachOutput], to backend.Streams) {
	refused := false
	for {
		in, err := stream.Recv()
		if err != nil {
			return
		}
		if len(in.GetData()) > 0 && !refused {
			refused = to.Send(in.GetData()) != nil
		}
		if in.GetCloseStdin() {
			refused = true
			if err := to.CloseStdin(); err != nil {
				return
			}
		}
	}
}

func (s *server) Pause(ctx context.Context, r *backendpb.ContainerRef) (*backendpb.Empty, error) {
	p, err := optional[backend.Pauser](s.b, backend.CapPause)
	if err != nil {
		return nil, err
	}
	return empty, p.Pause(ctx, r.GetId())
}

func (s *server) Resume(ctx context.Context, r *backendpb.ContainerRef) (*backendpb.Empty, error) {
	p, err := optional[backend.Pauser](s.b, backend.CapPause)
	if err != nil {
		return nil, err
	}
	return empty, p.Resume(ctx, r.GetId())
}

func (s *server) Processes(ctx context.Context, r *backendpb.ContainerRef) (*backendpb.ProcessesReply, error) {
	p, err := optional[backend.ProcessLister](s.b, backend.CapProcesses)
	if err != nil {
		return nil, err
	}
	return p.Processes(ctx, r.GetId())
}

func (s *server) Usage(ctx context.Context, t *backendpb.FilesTarget) (*backendpb.UsageReply, error) {
	m, err := optional[backend.Measurer](s.b, backend.CapUsage)
	if err != nil {
		return nil, err
	}
	return m.Usage(ctx, t)
}

func (s *server) StatPath(ctx context.Context, r *backendpb.PathRequest) (*backendpb.PathStat, error) {
	f, err := optional[backend.Files](s.b, backend.CapFiles)
	if err != nil {
		return nil, err
	}
	return f.StatPath(ctx, r)
}

func (s *server) ReadArchive(r *backendpb.PathRequest, out grpc.ServerStreamingServer[backendpb.Chunk]) error {
	f, err := optional[backend.Files](s.b, backend.CapFiles)
	if err != nil {
		return err
	}
	tar, err := f.ReadArchive(out.Context(), r)
	if err != nil {
		return err
	}
	return sendChunks(out, tar)
}

func (s *server) ReadDiff(r *backendpb.FilesTarget, out grpc.ServerStreamingServer[backendpb.Chunk]) error {
	f, err := optional[backend.Files](s.b, backend.CapFiles)
	if err != nil {
		return err
	}
	tar, err := f.ReadDiff(out.Context(), r)
	if err != nil {
		return err
	}
	return sendChunks(out, tar)
}

func (s *server) WriteArchive(in grpc.ClientStreamingServer[backendpb.ArchiveInput, backendpb.Empty]) error {
	f, err := optional[backend.Files](s.b, backend.CapFiles)
	if err != nil {
		return err
	}
	first, err := in.Recv()
	if err != nil {
		return err
	}
	if first.GetTarget() == nil {
		return fmt.Errorf("the first message of an archive must name its target: %w", errdefs.ErrInvalidArgument)
	}
	next := func() ([]byte, error) {
		m, err := in.Recv()
		return m.GetData(), err
	}
	if err := f.WriteArchive(in.Context(), first.GetTarget(), &chunkReader{next: next, rest: first.GetData()}); err != nil {
		return err
	}
	return in.SendAndClose(empty)
}

func (s *server) Changes(ctx context.Context, r *backendpb.FilesTarget) (*backendpb.ChangesReply, error) {
	f, err := optional[backend.Files](s.b, backend.CapFiles)
	if err != nil {
		return nil, err
	}
	return f.Changes(ctx, r)
}

// sendChunks sends all of r and closes it.
func sendChunks(out grpc.ServerStreamingServer[backendpb.Chunk], r io.ReadCloser) error {
	defer r.Close()
	// An early header tells the client that the archive exists.
	if err := out.SendHeader(nil); err != nil {
		return err
	}
	buf := make([]byte, chunkSize)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			// Send has encoded the message when it returns: buf is free again.
			if err := out.Send(&backendpb.Chunk{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if err != nil {
			return eof(err)
		}
	}
}

// chunkReader reads the data of a stream of messages.
type chunkReader struct {
	next func() ([]byte, error)
	rest []byte
}

func (c *chunkReader) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		data, err := c.next()
		if err != nil {
			return 0, err
		}
		c.rest = data
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// eof makes the regular end of a stream no error.
func eof(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

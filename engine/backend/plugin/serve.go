package plugin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	hclog "github.com/hashicorp/go-hclog"
	hplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendrpc"
)

// Environment variables between Launch and Serve, beside those of package
// backend.
const (
	envLogLevel = "CAISSON_BACKEND_LOG_LEVEL" // a slog.Level
	envTLS      = "CAISSON_BACKEND_TLS"       // "1": demand the certificate in the state directory
)

// Host is what the engine tells a backend that it launches.
type Host struct {
	StateDir     string // backend.EnvStateDir
	HostID       string // backend.EnvHostID
	CgroupParent string // backend.EnvCgroupParent
	Log          *slog.Logger
}

// Shutdowner is a backend that wants to know when the engine ends its process
// on purpose. Containers go on; it may be killed before it returns.
type Shutdowner interface{ Shutdown() error }

// Serve is the main of a backend: it opens the backend and serves it until the
// engine or SIGTERM asks the process to end, which is nil, or until it cannot. open gets a
// context that ends when Serve does. A backend that is a Shutdowner is told.
//
// Stdout and stderr belong to Serve: stdout carries the handshake, stderr is the
// log file. An error returned must go to stderr (os.Exit(1) after
// fmt.Fprintln(os.Stderr, err)): Launch shows it to the host owner.
func Serve(open func(ctx context.Context, h Host) (backend.Backend, error)) error {
	if os.Getenv(handshake.MagicCookieKey) != handshake.MagicCookieValue {
		return fmt.Errorf("%s is a backend that caissond starts by itself, not a command: run caissond: %w",
			os.Args[0], errdefs.ErrFailedPrecondition)
	}
	surviveHost()
	h := Host{
		StateDir:     os.Getenv(backend.EnvStateDir),
		HostID:       os.Getenv(backend.EnvHostID),
		CgroupParent: os.Getenv(backend.EnvCgroupParent),
	}
	if h.StateDir == "" {
		return fmt.Errorf("%s is not set: %w", backend.EnvStateDir, errdefs.ErrInvalidArgument)
	}
	lock, err := takeLock(h.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	var level slog.Level
	if s := os.Getenv(envLogLevel); s != "" {
		if err := level.UnmarshalText([]byte(s)); err != nil {
			return fmt.Errorf("%s=%s: %w: %w", envLogLevel, s, err, errdefs.ErrInvalidArgument)
		}
	}
	// go-plugin later replaces the variable os.Stderr, so take the file now.
	h.Log = slog.New(slog.NewTextHandler(&boundedLog{f: os.Stderr}, &slog.HandlerOptions{Level: level}))

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b, err := open(ctx, h)
	if err != nil {
		return err
	}
	cfg := &hplugin.ServeConfig{
		HandshakeConfig:  handshake,
		VersionedPlugins: sets(b),
		GRPCServer:       newServer,
		Logger:           hclog.NewNullLogger(),
	}
	if os.Getenv(envTLS) == "1" {
		cfg.TLSProvider = func() (*tls.Config, error) { return loadTLS(h.StateDir) }
	}
	go KeepSmall(ctx)
	served := make(chan struct{})
	go func() {
		hplugin.Serve(cfg)
		close(served)
	}()
	select {
	case <-served:
	case <-terminated():
	}
	cancel()
	if s, ok := b.(Shutdowner); ok {
		return s.Shutdown()
	}
	return nil
}

// terminated is a request of the host's to end, which is as good as the engine's: a
// backend that outlived its engine gets no other.
func terminated() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	return c
}

func newServer(opts []grpc.ServerOption) *grpc.Server {
	opts = append(opts, grpc.ConnectionTimeout(5*time.Second))
	return grpc.NewServer(append(opts, backendrpc.ServerOptions()...)...)
}

// logLimit bounds the log file of a backend, in bytes; Launch keeps the one
// before it.
const logLimit = 8 << 20

// boundedLog writes to a log file opened with O_APPEND and starts it anew when
// it is full, in place, because stderr of this process is the same open file.
type boundedLog struct {
	f       *os.File
	written int64 // since the size was looked at
}

func (l *boundedLog) Write(p []byte) (int, error) {
	if l.written += int64(len(p)); l.written > logLimit/8 {
		l.written = 0
		if fi, err := l.f.Stat(); err == nil && fi.Mode().IsRegular() && fi.Size() > logLimit {
			if err := l.f.Truncate(0); err != nil {
				return 0, err
			}
		}
	}
	n, err := l.f.Write(p)
	if errors.Is(err, os.ErrClosed) {
		return len(p), nil
	}
	return n, err
}

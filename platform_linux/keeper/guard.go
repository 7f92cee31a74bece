//go:build linux

package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
	"github.com/caisson-engine/caisson/platform_linux/pack"
)

// SocketName is the name of the keeper's socket in its directory.
const SocketName = "keeper.sock"

// Engine says how to start this process again if it ends without Guard's stop.
type Engine struct {
	// Dir names the engine, and it is only started again while Dir exists.
	Dir string
	// Argv's first element is the path of the program.
	Argv, Env []string
	Cwd       string
	// Stderr becomes the standard output and error of the next life.
	Stderr *os.File
}

// The backend starts a new keeper within some milliseconds of the end of the
// last, and until we are known to it nobody would start us again: for a while
// attempts to reach it come fast, and only then at intervals that double.
const (
	fastRetries = 200
	firstRetry  = 5 * time.Millisecond
	lastRetry   = time.Second
)

// Guard has the keeper at socket start this process again should it die, and
// registers again with the next keeper when one dies. It returns at once; a
// keeper that does not exist yet is waited for. stop says goodbye, so that this
// end is taken for meant, and returns once the keeper knows.
func Guard(socket string, e Engine) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		retry := firstRetry
		for tries := 0; ; tries++ {
			if tries > fastRetries {
				retry = min(2*retry, lastRetry)
			}
			if conn, err := register(ctx, socket, e); err == nil {
				// Nothing is ever said here: the end of the stream is the keeper's end.
				unhook := context.AfterFunc(ctx, func() { _ = conn.Close() })
				_, _ = conn.Read(make([]byte, 1))
				unhook()
				_ = conn.Close()
				retry, tries = firstRetry, 0
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(retry):
			}
		}
	}()
	return func() {
		cancel()
		<-ended
		unregister(socket, e.Dir)
	}
}

func dial(ctx context.Context, socket string) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", socket)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

func register(ctx context.Context, socket string, e Engine) (*net.UnixConn, error) {
	conn, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open a pidfd of ourselves: %w", err)
	}
	defer unix.Close(self)
	raw, err := e.Stderr.SyscallConn()
	if err == nil {
		var rerr error
		err = raw.Control(func(stderr uintptr) {
			m := &wire.Engine{Dir: filepath.Clean(e.Dir), Argv: e.Argv, Env: e.Env, Cwd: e.Cwd}
			rerr = request(ctx, conn, wire.KindRegister, m, int(stderr), self)
		})
		err = errors.Join(err, rerr)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// request sends one message and waits for the End that answers it.
func request(ctx context.Context, conn *net.UnixConn, kind wire.Kind, m pack.Message, fds ...int) error {
	unhook := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer unhook()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix(wire.Encode(kind, m), oob, nil); err != nil {
		return err
	}
	answer := make([]byte, 16)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	if n == 0 || wire.Kind(answer[0]) != wire.KindEnd {
		return fmt.Errorf("the keeper refused the registration: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// goodbye bounds how long stop waits for a keeper that hangs.
const goodbye = time.Second

// unregister says goodbye. Without a keeper there is nobody to say it to, and
// nobody to start us again.
func unregister(socket, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	conn, err := dial(ctx, socket)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_ = request(ctx, conn, wire.KindUnregister, &wire.Engine{Dir: filepath.Clean(dir)})
}

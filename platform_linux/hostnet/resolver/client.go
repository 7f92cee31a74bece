//go:build linux

package resolver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/network/dns"
)

// Config says where the process is.
type Config struct {
	Program string // caisson-dns
	Dir     string // private; made if missing
}

// Client is a connection to the process. Make one with Start or Find. Safe for
// concurrent use.
type Client struct {
	mu    sync.Mutex
	conn  *net.UnixConn
	watch *net.UnixConn // nothing is said here: its end is the process's
	done  chan struct{}
}

const (
	socketName = "dns.sock"
	logName    = "dns.log"
	rootName   = "root" // an empty directory
)

// Find connects to a process that runs. NotFound if none does.
func Find(cfg Config) (*Client, error) {
	addr := &net.UnixAddr{Name: filepath.Join(cfg.Dir, socketName), Net: "unixpacket"}
	c := &Client{done: make(chan struct{})}
	for _, conn := range []**net.UnixConn{&c.conn, &c.watch} {
		var err error
		if *conn, err = net.DialUnix("unixpacket", nil, addr); err != nil {
			if c.conn != nil {
				_ = c.conn.Close()
			}
			return nil, fmt.Errorf("the server of names does not run: %w: %w", err, errdefs.ErrNotFound)
		}
	}
	_ = c.conn.SetWriteBuffer(2 * maxPacket)
	go func() {
		_, _ = c.watch.Read(make([]byte, 1))
		close(c.done)
	}()
	return c, nil
}

// Start connects to the process, and starts it if it does not run.
func Start(cfg Config) (*Client, error) {
	if c, err := Find(cfg); err == nil {
		if _, err := c.List(); err == nil {
			return c, nil
		}
		c.Close() // it was ending
	}
	if err := launch(cfg); err != nil {
		return nil, fmt.Errorf("start the server of names: %w: %w", err, errdefs.ErrUnavailable)
	}
	return Find(cfg)
}

// launch starts the process with its socket, so that it can be spoken to at once.
func launch(cfg Config) error {
	if err := os.MkdirAll(filepath.Join(cfg.Dir, rootName), 0o700); err != nil {
		return err
	}
	path := filepath.Join(cfg.Dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close() //nolint:errcheck // the process has its own
	f, err := l.File()
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // as above
	log, err := os.OpenFile(filepath.Join(cfg.Dir, logName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()                                                  //nolint:errcheck // as above
	cmd := exec.Command(cfg.Program, filepath.Join(cfg.Dir, rootName)) //nolint:gosec,noctx // our own program, which outlives us
	cmd.Env = []string{"GOMAXPROCS=2"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // reaps it
	return nil
}

// ask sends a request and waits for the answer.
func (c *Client) ask(q *request, files ...*os.File) (reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var r reply
	fds := make([]int, 0, len(files))
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	q.Sockets = len(files) > 0
	err := send(c.conn, q, fds...)
	if err == nil {
		_, err = receive(c.conn, &r)
	}
	if err != nil {
		return r, fmt.Errorf("the server of names: %w: %w", err, errdefs.ErrUnavailable)
	}
	if r.Error != "" {
		return r, fmt.Errorf("the server of names: %s: %w", r.Error, errdefs.ErrInternal)
	}
	return r, nil
}

// Put tells of a container; with sockets, it is served.
func (c *Client) Put(h dns.Host, sockets ...*os.File) error {
	_, err := c.ask(&request{Op: "put", Host: &h}, sockets...)
	return err
}

// Drop forgets a container.
func (c *Client) Drop(id string) error {
	_, err := c.ask(&request{Op: "drop", ID: id})
	return err
}

// Gate serves a network's containers with a stack of their own.
func (c *Client) Gate(network string, sockets ...*os.File) error {
	_, err := c.ask(&request{Op: "gate", ID: network}, sockets...)
	return err
}

// Ungate ends that.
func (c *Client) Ungate(network string) error {
	_, err := c.ask(&request{Op: "ungate", ID: network})
	return err
}

// List tells what the server has.
func (c *Client) List() (State, error) {
	r, err := c.ask(&request{Op: "list"})
	return r.State, err
}

// Done is closed when the process is gone, or the client closed.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection; the process goes on.
func (c *Client) Close() {
	_ = c.conn.Close()
	_ = c.watch.Close()
}

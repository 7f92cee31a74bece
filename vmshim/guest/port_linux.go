package guest

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// openPort opens the virtio-serial port of that name. Its device may appear a
// little after we do.
func openPort(name string) (*portConn, error) {
	for range 6000 { // half a minute: a loaded host emulates slowly
		found, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			b, err := os.ReadFile(path)
			if err != nil || strings.TrimSpace(string(b)) != name {
				continue
			}
			f, err := os.OpenFile(filepath.Join("/dev", filepath.Base(filepath.Dir(path))), os.O_RDWR, 0)
			if err != nil {
				return nil, fmt.Errorf("channel to the host: %w", err)
			}
			return &portConn{File: f}, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, fmt.Errorf("channel to the host: there is no virtio-serial port %q", name)
}

// portConn is a port as a connection.
type portConn struct {
	*os.File
	mu    sync.Mutex
	ahead []byte // read already; of the one reader
}

// await returns once the host has said something.
func (c *portConn) await() error {
	b := make([]byte, 1)
	if _, err := io.ReadFull(c.File, b); err != nil {
		return fmt.Errorf("channel to the host: %w", err)
	}
	c.ahead = b
	return nil
}

func (c *portConn) Read(p []byte) (int, error) {
	if len(c.ahead) > 0 {
		n := copy(p, c.ahead)
		c.ahead = c.ahead[n:]
		return n, nil
	}
	return c.File.Read(p)
}

// Write splits what the driver does not take at once.
func (c *portConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := 0
	for done < len(p) {
		n, err := c.File.Write(p[done:min(len(p), done+maxPortWrite)])
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// maxPortWrite is how much goes to the driver at once, in bytes: it copies each
// write into one buffer.
const maxPortWrite = 32 << 10

type portAddr struct{}

func (portAddr) Network() string { return "virtio-serial" }
func (portAddr) String() string  { return "host" }

func (c *portConn) LocalAddr() net.Addr  { return portAddr{} }
func (c *portConn) RemoteAddr() net.Addr { return portAddr{} }

// once is a listener for a connection that exists already.
type once struct {
	conns chan net.Conn
	done  chan struct{}
	close sync.Once
}

func newOnce(c net.Conn) *once {
	l := &once{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conns <- &closing{c, l}
	return l
}

// closing ends the listener with its connection: there will be no other.
type closing struct {
	net.Conn
	l *once
}

func (c *closing) Close() error {
	err := c.Conn.Close()
	_ = c.l.Close()
	return err
}

func (l *once) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, io.EOF
	}
}

func (l *once) Close() error {
	l.close.Do(func() { close(l.done) })
	return nil
}

func (l *once) Addr() net.Addr { return portAddr{} }

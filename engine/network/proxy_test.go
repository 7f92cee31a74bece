package network

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func sprint(v ...any) string { return strings.TrimSpace(fmt.Sprintln(v...)) }

// proxied listens on a free port of the loopback interface for target.
func proxied(t *testing.T, proto string, target net.Addr) (netip.AddrPort, io.Closer) {
	t.Helper()
	for port := uint16(43000); ; port++ {
		k := portKey{proto, netip.MustParseAddr("127.0.0.1"), port}
		c, err := listenAndProxy(k, netip.MustParseAddrPort(target.String()))
		if errdefs.IsConflict(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return netip.AddrPortFrom(k.addr, k.port), c
	}
}

// Each direction ends by itself, and nothing is lost.
func TestProxyTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // the test ends
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				b, _ := io.ReadAll(c)
				_, _ = c.Write(bytes.ToUpper(b))
				_ = c.Close()
			}()
		}
	}()
	at, closer := proxied(t, "tcp", l.Addr())
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			c, err := net.Dial("tcp", at.String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close() //nolint:errcheck // read to its end
			text := strings.Repeat("abcdefgh", 1<<16) + fmt.Sprint(i)
			go func() {
				_, _ = io.WriteString(c, text)
				_ = c.(*net.TCPConn).CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || string(got) != strings.ToUpper(text) {
				t.Errorf("got %d bytes of %d, %v", len(got), len(text), err)
			}
		})
	}
	wg.Wait()

	idle, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
	_ = idle.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := idle.Read(make([]byte, 1)); err == nil || n > 0 {
		t.Errorf("a connection outlives its port: %d, %v", n, err)
	}
	if _, err := net.Dial("tcp", at.String()); err == nil {
		t.Error("the port is still open")
	}
}

// A container that does not listen is refused, as it would be without a proxy.
func TestProxyRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr()
	_ = l.Close()
	at, _ := proxied(t, "tcp", nobody)
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		return // the reset was faster
	}
	defer c.Close() //nolint:errcheck // reset
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := c.Read(make([]byte, 1)); err == nil || n > 0 {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestProxyUDP(t *testing.T) {
	s, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the test ends
	go func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := s.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = s.WriteTo(bytes.ToUpper(buf[:n]), from)
		}
	}()
	at, closer := proxied(t, "udp", s.LocalAddr())
	for i := range 5 {
		c, err := net.Dial("udp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"hello", strings.Repeat("x", 9000)} {
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, maxDatagram)
			if n, err := c.Read(buf); err != nil || string(buf[:n]) != strings.ToUpper(text) {
				t.Errorf("client %d: %d bytes, %v", i, n, err)
			}
		}
		_ = c.Close()
	}
	if err := closer.Close(); err != nil {
		t.Error(err)
	}
}

func TestListenErrors(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // the test ends
	taken := netip.MustParseAddrPort(l.Addr().String())
	if _, err := listenAndProxy(portKey{"tcp", taken.Addr(), taken.Port()}, taken); !errdefs.IsConflict(err) {
		t.Errorf("taken: %v", err)
	}
	if _, err := listenAndProxy(portKey{"tcp", netip.MustParseAddr("192.0.2.99"), 43999}, taken); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no address of this host: %v", err)
	}
}

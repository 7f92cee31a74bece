package hostnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	api "github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/network"
)

// The tests run in a network namespace of their own, which plays the host, so
// that the machine's network is left alone.
const inWorld = "CAISSON_HOSTNET_TEST"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(inWorld) != "" {
		os.Exit(m.Run())
	}
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), inWorld+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "network tests are skipped, no network namespace can be made:", err)
		os.Exit(m.Run()) // each test skips
	}
}

func needWorld(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 || os.Getenv(inWorld) == "" {
		t.Skip("needs root: makes network namespaces and packet rules")
	}
}

// world is a host with a neighbour on a link of its own, which has no route to
// the containers' subnets.
type world struct {
	testing.TB
	host    *os.File // the host's namespace
	outside *namespace
	dir     string
	driver  *Driver
	manager *network.Manager
}

var (
	hostAddr4    = netip.MustParseAddr("198.51.100.1")
	hostAddr6    = netip.MustParseAddr("2001:db8:1::1")
	outsideAddr4 = netip.MustParseAddr("198.51.100.2")
	outsideAddr6 = netip.MustParseAddr("2001:db8:1::2")
)

func newWorld(t testing.TB) *world {
	t.Helper()
	needWorld(t)
	w := &world{TB: t, dir: t.TempDir()}
	var err error
	w.host, err = os.Open("/proc/thread-self/ns/net")
	w.ok(err)
	w.start("test", network.Config{})
	lo, err := netlink.LinkByName("lo")
	w.ok(err)
	w.ok(netlink.LinkSetUp(lo))

	w.outside, err = w.driver.newNamespace(withIPv6)
	w.ok(err)
	w.ok(w.outside.rtnl.do(setLink(loopback)))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "out0"
	w.ok(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(w.outside.ns.Fd())}))
	index, err := w.driver.rtnl.linkIndex("out0")
	w.ok(err)
	w.ok(w.driver.rtnl.do(setLink(index), addAddr(index, netip.PrefixFrom(hostAddr4, 24)), addAddr(index, netip.PrefixFrom(hostAddr6, 64))))
	w.ok(w.outside.configure(network.Link{
		Name: "eth0", MTU: 1500, IPv4: netip.PrefixFrom(outsideAddr4, 24), IPv6: netip.PrefixFrom(outsideAddr6, 64),
	}))
	t.Cleanup(func() {
		w.ok(w.manager.Cleanup())
		w.ok(w.driver.rtnl.do(delLink("out0")))
		w.ok(w.manager.Close())
		w.ok(w.outside.close())
		w.ok(w.host.Close())
	})
	return w
}

// start makes driver and manager, as an engine's start does.
func (w *world) start(id string, cfg network.Config, live ...*network.Attachment) {
	w.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{w}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	d, err := New(Config{HostID: id, Log: log})
	w.ok(err)
	cfg.HostID, cfg.DataDir, cfg.Log = id, w.dir, log
	m, err := network.NewManager(cfg, d)
	w.ok(err)
	w.driver, w.manager = d, m
	w.ok(m.Restore(context.Background(), live, nil))
	if warnings := m.Warnings(); len(warnings) > 0 {
		w.Logf("warnings: %q", warnings)
	}
}

type testWriter struct{ testing.TB }

func (t testWriter) Write(b []byte) (int, error) {
	t.Logf("%s", strings.TrimSpace(string(b)))
	return len(b), nil
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// box is a container: a namespace in which servers answer.
type box struct {
	*world
	*network.Attachment
	ns *network.Netns
}

// attach starts a container. ports are as -p has them, without ranges of
// container ports.
func (w *world) attach(name string, ports ...string) *box {
	w.Helper()
	b, err := w.tryAttach(name, ports...)
	w.ok(err)
	return b
}

// attachOf starts a container of a tenant.
func (w *world) attachOf(tenant, name string, ports ...string) *box {
	w.Helper()
	b, err := w.tryAttachOf(tenant, name, ports...)
	w.ok(err)
	return b
}

func (w *world) tryAttach(name string, ports ...string) (*box, error) {
	return w.tryAttachOf("", name, ports...)
}

func (w *world) tryAttachOf(tenant, name string, ports ...string) (*box, error) {
	r := network.Request{Container: name + "-id", Tenant: tenant, Name: name, Hostname: name, Ports: api.PortMap{}}
	for _, p := range ports {
		host, inside, _ := strings.Cut(p, "->")
		binding := api.PortBinding{HostPort: host}
		if i := strings.LastIndex(host, ":"); i >= 0 {
			binding.HostIP, binding.HostPort = netip.MustParseAddr(strings.Trim(host[:i], "[]")), host[i+1:]
		}
		port := api.MustParsePort(inside)
		r.Ports[port] = append(r.Ports[port], binding)
	}
	a, ns, err := w.manager.Attach(context.Background(), r)
	if err != nil {
		return nil, err
	}
	b := &box{w, a, ns}
	w.Cleanup(b.release)
	return b, nil
}

func (b *box) release() {
	b.ok(b.manager.Release(context.Background(), b.Attachment))
	b.ok(b.ns.Close())
}

func (b *box) ip4() netip.Addr { return b.Endpoints[0].IPv4.Addr() }
func (b *box) ip6() netip.Addr { return b.Endpoints[0].IPv6.Addr() }

// in runs f on a thread in a namespace; "" is the host's.
func (w *world) in(path string, f func()) {
	w.Helper()
	if path == "" {
		f()
		return
	}
	ns, err := os.Open(path)
	w.ok(err)
	defer ns.Close() //nolint:errcheck // read-only
	w.ok(inNamespace(w.host, func() error { return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET) }, func() error { f(); return nil }))
}

func (w *world) outsidePath() string {
	return fmt.Sprintf("/proc/self/fd/%d", w.outside.ns.Fd())
}

// serve answers on a port of a namespace with its name and whom it sees.
func (w *world) serve(ns, name, proto string, port int) {
	w.Helper()
	w.in(ns, func() {
		addr := fmt.Sprintf(":%d", port)
		if strings.HasPrefix(proto, "udp") {
			c, err := net.ListenPacket(proto, addr)
			w.ok(err)
			w.Cleanup(func() { _ = c.Close() })
			go func() {
				buf := make([]byte, 64)
				for {
					_, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = c.WriteTo([]byte(answer(name, from)), from)
				}
			}()
			return
		}
		l, err := net.Listen(proto, addr)
		w.ok(err)
		w.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				// Reading to the end first shows that half-closed connections work.
				go func() {
					_, _ = io.Copy(io.Discard, c)
					_, _ = io.WriteString(c, answer(name, c.RemoteAddr()))
					_ = c.Close()
				}()
			}
		}()
	})
}

func answer(name string, from net.Addr) string {
	return name + " " + netip.MustParseAddrPort(from.String()).Addr().Unmap().String()
}

// ask asks the server at an address from a namespace: what it says, or "" if
// there is no answer.
func (w *world) ask(ns, proto, addr string) string {
	w.Helper()
	var got string
	w.in(ns, func() {
		for range 2 { // a datagram may be lost while neighbours are found
			d := net.Dialer{Timeout: 2 * time.Second}
			c, err := d.Dial(proto, addr)
			if err != nil {
				w.Logf("ask %s: %v", addr, err)
				return
			}
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			_, _ = c.Write([]byte("?"))
			if t, ok := c.(*net.TCPConn); ok {
				_ = t.CloseWrite()
				b, _ := io.ReadAll(c)
				got = string(b)
			} else {
				var b [64]byte
				n, _ := c.Read(b[:])
				got = string(b[:n])
			}
			_ = c.Close()
			if got != "" {
				return
			}
		}
	})
	return got
}

// expect asks and compares.
func (w *world) expect(what, ns, proto, addr, want string) {
	w.Helper()
	if got := w.ask(ns, proto, addr); got != want {
		w.Errorf("%s: %s %s answered %q, want %q", what, proto, addr, got, want)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// links counts the interfaces of the host.
func (w *world) links() int {
	l, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // a link came or went meanwhile
		l, err = netlink.LinkList()
	}
	w.ok(err)
	return len(l)
}

// fds counts this process's descriptors.
func fds(t testing.TB) int {
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// settled waits until f holds: what the kernel or a goroutine ends by itself.
func settled(f func() bool) bool {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); runtime.Gosched() {
		if f() {
			return true
		}
	}
	return f()
}

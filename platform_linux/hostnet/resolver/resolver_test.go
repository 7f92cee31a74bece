//go:build linux

package resolver

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	mdns "github.com/miekg/dns"

	"github.com/caisson-engine/caisson/engine/network/dns"
)

// begin serves in this process as Main does, without giving up its rights.
func begin(t *testing.T) (Config, *process) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "dns") // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, socketName), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	p := &process{server: dns.New(), listener: l, changed: make(chan struct{}, 1)}
	go p.accept()
	t.Cleanup(func() { l.Close(); p.server.Close() })
	return Config{Dir: dir}, p
}

func sockets(t *testing.T) (files []*os.File, at string) {
	t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	for _, f := range []func() (*os.File, error){udp.File, tcp.File} {
		file, err := f()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		files = append(files, file)
	}
	return files, udp.LocalAddr().String()
}

// An engine tells of a container and goes; the next one finds what the first one
// told, and the container is answered all along.
func TestOutlivesTheEngine(t *testing.T) {
	cfg, _ := begin(t)
	first, err := Find(cfg)
	if err != nil {
		t.Fatal(err)
	}
	web := dns.Host{ID: "web", Places: []dns.Place{{Network: "n", Name: "net", Names: []string{"web"}, IPv4: netip.MustParseAddr("10.0.0.2")}}}
	files, at := sockets(t)
	if err := first.Put(web, files...); err != nil {
		t.Fatal(err)
	}
	answered := func() bool {
		q := new(mdns.Msg)
		q.SetQuestion("web.", mdns.TypeA)
		r, err := mdns.Exchange(q, at)
		return err == nil && len(r.Answer) == 1
	}
	if !answered() {
		t.Error("not answered")
	}
	first.Close()
	<-first.Done()
	if !answered() {
		t.Error("not answered once the engine is gone")
	}
	second, err := Find(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	state, err := second.List()
	if err != nil || !slices.Equal(state.Known, []string{"web"}) || !slices.Equal(state.Served, []string{"web"}) {
		t.Errorf("%+v %v", state, err)
	}
	if err := second.Put(web); err != nil || !answered() { // without sockets it keeps those it has
		t.Errorf("told again: %v", err)
	}
	gate, _ := sockets(t)
	if err := second.Gate("n", gate...); err != nil {
		t.Error(err)
	}
	if state, err := second.List(); err != nil || !slices.Equal(state.Gates, []string{"n"}) {
		t.Errorf("%+v %v", state, err)
	}
	if err := second.Ungate("n"); err != nil {
		t.Error(err)
	}
	if err := second.Drop("web"); err != nil || answered() {
		t.Errorf("after its end: %v", err)
	}
}

// What makes no sense is refused, and the connection goes on; the end of the
// process is noticed.
func TestRefusals(t *testing.T) {
	cfg, p := begin(t)
	c, err := Find(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	files, _ := sockets(t)
	for what, err := range map[string]error{
		"one socket":       c.Put(dns.Host{ID: "x"}, files[:1]...),
		"the wrong order":  c.Put(dns.Host{ID: "x"}, files[1], files[0]),
		"no gate's socket": c.Gate("n"),
	} {
		if !errdefs.IsInternal(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if state, err := c.List(); err != nil || len(state.Known) != 0 {
		t.Errorf("%+v %v", state, err)
	}
	huge := dns.Host{ID: "x", Links: map[string]string{"a": string(make([]byte, maxPacket))}}
	if err := c.Put(huge); err == nil {
		t.Error("a message beyond every bound was sent")
	}
	if _, err := c.List(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := p.listener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(Config{Dir: t.TempDir()}); !errdefs.IsNotFound(err) {
		t.Errorf("a process that does not run: %v", err)
	}
	select {
	case <-c.Done():
		t.Error("the end of the process is told, but it goes on")
	case <-time.After(10 * time.Millisecond): // it can only err on the side of success
	}
}

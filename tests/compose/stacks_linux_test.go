package compose

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Workers answer to one name in turn; a scale changes only what it must.
func TestWorkers(t *testing.T) {
	e := start(t)
	withTools(t, e, "workers", func(p *project) {
		t := p.t
		p.env = []string{"SERVE=" + serve}
		p.must("up", "-d")
		for _, n := range []int{3, 5, 1} {
			before := p.ids()
			p.must("up", "-d", "--no-recreate", "--scale", fmt.Sprint("worker=", n))
			for name, id := range p.ids() {
				if was, ok := before[name]; ok && was != id {
					t.Errorf("scale to %d made %s anew", n, name)
				}
			}
			var got []string
			p.until(fmt.Sprintf("all of %d workers answer", n), func() bool {
				got = strings.Fields(p.do("exec", "-T", "client", "python3", "-c", ask).Stdout)
				return len(got) == n
			})
			if len(slices.Compact(slices.Sorted(slices.Values(got)))) != n {
				t.Errorf("%d workers: answers of %v", n, got)
			}
		}
	})
}

// serve answers with the worker's own name.
const serve = `
from http.server import *
import socket
class H(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(socket.gethostname().encode())
    def log_message(self, *_): pass
ThreadingHTTPServer(("", 8000), H).serve_forever()
`

// ask resolves the name often, and asks the address that came first each time.
// getaddrinfo would sort them.
const ask = `
import socket, urllib.request
first = {socket.gethostbyname_ex("worker")[2][0] for _ in range(60)}
print(*sorted(urllib.request.urlopen("http://%s:8000/" % a, timeout=3).read().decode() for a in first))
`

// Two internal networks: who is in only one of them reaches the other by the
// gateway alone, and the world not at all.
func TestGateway(t *testing.T) {
	e := start(t)
	withTools(t, e, "gateway", func(p *project) {
		t := p.t
		p.must("up", "-d")
		fetch := func(from, url string) (string, bool) {
			const get = `import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=3).read().decode()[:60])`
			r := p.do("exec", "-T", from, "python3", "-c", get, url)
			return r.Stdout + r.Stderr, r.Code == 0
		}
		p.until("the gateway answers", func() bool { _, ok := fetch("outside", "http://gateway/BSD"); return ok })
		inside := p.inspect("inside", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
		outside := p.inspect("outside", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
		for _, c := range []struct {
			from, url string
			reaches   bool
		}{
			{"outside", "http://gateway/BSD", true},
			{"gateway", "http://inside:8000/BSD", true},
			{"gateway", "http://vault:8000/BSD", true},
			{"gateway", "http://outside:8000/BSD", true},
			{"inside", "http://gateway/BSD", true},
			{"outside", "http://inside:8000/BSD", false}, // no such name there
			{"outside", "http://vault:8000/BSD", false},
			{"outside", "http://" + inside + ":8000/BSD", false}, // nor a way
			{"inside", "http://" + outside + ":8000/BSD", false},
			{"inside", world(t), false},
		} {
			out, ok := fetch(c.from, c.url)
			if ok != c.reaches {
				t.Errorf("%s reaches %s: %v, want %v\n%s", c.from, c.url, ok, c.reaches, out)
			}
		}
	})
}

// world is a server outside of all networks: on an address of the host's own.
func world(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(hostAddress(t), "0"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	url := "http://" + l.Addr().String() + "/"
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err) // it must be there for those who may reach it
	}
	r.Body.Close()
	return url
}

// hostAddress is an address of the host's that is no bridge's.
func hostAddress(t *testing.T) string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if _, bridge := os.Stat("/sys/class/net/" + l.Name + "/bridge"); bridge == nil || l.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := l.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
				return n.IP.String()
			}
		}
	}
	t.Skip("this host has no address that is not a bridge's")
	return ""
}

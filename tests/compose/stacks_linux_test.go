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

	"github.com/caisson-engine/caisson/tests/testimage"
)

// A web application of five services. Each starts when what it needs is healthy,
// its data outlives down and up, a kill of the engine and the end of all
// processes; pgbench runs against its database; its secrets are seen by nobody.
func TestWeb(t *testing.T) {
	e := engine(t, testimage.Stack(t))
	withTools(t, e, "web", func(p *project) {
		t := p.t
		p.must("up", "-d", "--wait")
		if v := p.get(); v.Rows != 1 || v.Hits != 1 || v.Greeting != "hello" || v.Token != len(token) {
			t.Errorf("first visit: %+v", v)
		}
		checkOrder(p)
		checkSecrets(p)

		before := p.ids()
		p.must("up", "-d", "--wait")
		if now := p.ids(); fmt.Sprint(now) != fmt.Sprint(before) {
			t.Errorf("an up without a change made containers anew: %v, before %v", now, before)
		}
		p.env = []string{"GREETING=changed"}
		p.must("up", "-d", "--wait")
		now := p.ids()
		for name, id := range before {
			if anew := now[name] != id; anew != (name == p.container("app", 1)) {
				t.Errorf("%s made anew: %v", name, anew)
			}
		}
		if v := p.get(); v.Rows != 2 || v.Greeting != "changed" {
			t.Errorf("after a change: %+v", v)
		}

		if out := p.must("run", "--rm", "-T", "bench"); !strings.Contains(out, "number of transactions actually processed: 200/200") {
			t.Errorf("pgbench: %s", out)
		}
		if out := p.must("exec", "-T", "db", "pg_isready", "-h", "127.0.0.1"); !strings.Contains(out, "accepting connections") {
			t.Errorf("exec: %s", out)
		}

		p.must("restart", "-t", "5", "app")
		p.must("stop", "-t", "5")
		if out := p.must("ps", "-q"); out != "" {
			t.Errorf("running after stop: %s", out)
		}
		p.must("start")
		if v := p.get(); v.Rows != 3 {
			t.Errorf("after stop and start: %+v", v)
		}
		p.must("down", "-t", "5")
		p.must("up", "-d", "--wait")
		if v := p.get(); v.Rows != 4 || v.Hits != 1 {
			t.Errorf("after down and up: %+v", v)
		}

		e.Kill("caissond")
		e.WaitReady()
		if v := p.get(); v.Rows != 5 || v.Hits != 2 {
			t.Errorf("after the engine was killed: %+v", v)
		}
		e.Crash()
		e.Boot()
		// An answer that came too late is a row, too.
		if v := p.get(); v.Rows < 6 || v.Rows > 8 || v.Hits > 3 {
			t.Errorf("after all processes ended and the engine started again: %+v", v)
		}
	})
}

// checkOrder looks at when each service was started.
func checkOrder(p *project) {
	p.t.Helper()
	at := func(service, field string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, p.inspect(service, field))
		if err != nil {
			p.t.Fatal(err)
		}
		return v
	}
	started := "{{.State.StartedAt}}"
	for _, c := range []struct{ first, field, then string }{
		{"db", "{{(index .State.Health.Log 0).Start.Format \"2006-01-02T15:04:05.999999999Z07:00\"}}", "app"},
		{"schema", "{{.State.FinishedAt}}", "app"}, {"db", started, "schema"}, {"app", started, "web"},
	} {
		if a, b := at(c.first, c.field), at(c.then, started); !a.Before(b) {
			p.t.Errorf("%s started at %v, before %s was ready at %v", c.then, b, c.first, a)
		}
	}
}

// checkSecrets looks for the secrets where everybody can look.
func checkSecrets(p *project) {
	p.t.Helper()
	ids := strings.Fields(p.caisson("ps", "-aq"))
	seen := p.caisson(append([]string{"inspect"}, ids...)...) + p.must("logs")
	for _, d := range []string{"caissond.log", "audit.log"} {
		b, _ := os.ReadFile(p.e.DataRoot + "/" + d)
		seen += string(b)
	}
	for _, secret := range []string{"kept-from-everybody-1", token} {
		if i := strings.Index(seen, secret); i >= 0 {
			p.t.Errorf("a secret is shown: %q", seen[max(0, i-200):i+len(secret)])
		}
	}
}

// Workers answer to one name in turn; a scale changes only what it must.
func TestWorkers(t *testing.T) {
	e := engine(t, testimage.Stack(t))
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
	e := engine(t, testimage.Stack(t))
	withTools(t, e, "gateway", func(p *project) {
		t := p.t
		p.must("up", "-d")
		fetch := func(from, url string) (string, bool) {
			const get = `import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode()[:60])`
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

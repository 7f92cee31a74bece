package dockerapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/identity"
)

// stub is an engine of which a test replaces the verbs it needs. The others panic.
type stub struct {
	Engine
	inspect  func(context.Context, string) (container.InspectResponse, error)
	create   func(context.Context, engine.CreateRequest) (container.CreateResponse, error)
	attach   func(context.Context, string, engine.AttachOptions) error
	wait     func(context.Context, string, engine.WaitCondition) (<-chan engine.Exit, error)
	backends []engine.BackendStatus
}

func (s *stub) Identify(id identity.Identity) (identity.Identity, error) {
	id.Admin = true
	return id, nil
}

func (s *stub) Inspect(ctx context.Context, ref string, _ bool) (container.InspectResponse, error) {
	return s.inspect(ctx, ref)
}

func (s *stub) Create(ctx context.Context, r engine.CreateRequest) (container.CreateResponse, error) {
	return s.create(ctx, r)
}

func (s *stub) Attach(ctx context.Context, ref string, o engine.AttachOptions) error {
	return s.attach(ctx, ref, o)
}

func (s *stub) Wait(ctx context.Context, ref string, c engine.WaitCondition) (<-chan engine.Exit, error) {
	return s.wait(ctx, ref, c)
}

func (s *stub) Backends(context.Context) ([]engine.BackendStatus, error) { return s.backends, nil }

func (s *stub) Info(context.Context) (system.Info, error) { return system.Info{}, nil }

// ask sends one request straight to the handler.
func ask(t *testing.T, e Engine, method, target, body string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	New(Config{Engine: e, Version: "0.0.0", Log: slog.New(slog.DiscardHandler)}).ServeHTTP(w, r)
	return w.Result()
}

func messageOf(t *testing.T, r *http.Response) string {
	t.Helper()
	var m struct{ Message string }
	b, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("answer %q is not a JSON error: %v", b, err)
	}
	return m.Message
}

func TestNegotiation(t *testing.T) {
	for _, c := range []struct {
		path    string
		status  int
		message string
	}{
		{"/_ping", 200, ""},
		{"/v1.40/_ping", 200, ""},
		{"/v1.56/_ping", 200, ""},
		{"/v1.39/_ping", 400, "client version 1.39 is too old. Minimum supported API version is 1.40, please upgrade your client to a newer version"},
		{"/v1.57/_ping", 400, "client version 1.57 is too new. Maximum supported API version is 1.56"},
		{"/v2.0/_ping", 400, "client version 2.0 is too new. Maximum supported API version is 1.56"},
		{"/v1.4.0/_ping", 400, "client version 1.4.0 is not a version"},
		{"/v1.50", 404, "page not found"},
		{"/vx/_ping", 404, "page not found"},
		{"/nope", 404, "page not found"},
		{"/v1.50/containers", 404, "page not found"},
		{"/v1.54/images/a/attestations", 404, "page not found"},
		{"/v1.55/images/a/attestations", 501, "not implemented: reading attestations is not supported: " + noAttest},
	} {
		r := ask(t, &stub{}, "GET", c.path, "")
		if r.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d", c.path, r.StatusCode, c.status)
		} else if c.message != "" {
			if m := messageOf(t, r); m != c.message {
				t.Errorf("%s: message %q, want %q", c.path, m, c.message)
			}
		}
		for k, v := range map[string]string{"Api-Version": MaxVersion, "Ostype": hostOS, "Docker-Experimental": "false", "Server": "Caisson/0.0.0 (" + hostOS + ")"} {
			if r.Header.Get(k) != v {
				t.Errorf("%s: header %s is %q, want %q", c.path, k, r.Header.Get(k), v)
			}
		}
	}
}

func TestPing(t *testing.T) {
	for _, method := range []string{"GET", "HEAD"} {
		r := ask(t, &stub{}, method, "/_ping", "")
		b, _ := io.ReadAll(r.Body)
		if want := map[string]string{"GET": "OK", "HEAD": ""}[method]; string(b) != want {
			t.Errorf("%s: body %q, want %q", method, b, want)
		}
		for _, h := range []string{"Builder-Version", "Swarm", "Cache-Control", "Pragma", "Content-Type"} {
			if r.Header.Get(h) == "" {
				t.Errorf("%s: no header %s", method, h)
			}
		}
	}
}

func TestOtherOriginsAreRefused(t *testing.T) {
	for origin, want := range map[string]int{"": 200, "http://example.com": 200, "https://evil.example": 403, "null": 403, "%": 403} {
		r := httptest.NewRequest(http.MethodGet, "http://example.com/_ping", nil)
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		w := httptest.NewRecorder()
		New(Config{Engine: &stub{}}).ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("origin %q: status %d, want %d", origin, w.Code, want)
		}
	}
}

// Every line of the table must be reachable: no earlier line may shadow it.
func TestRoutesAreReachable(t *testing.T) {
	rt := compile(routes)
	for i := range routes {
		path := strings.NewReplacer("{id}", "x", "{name}", "x", "{name...}", "reg.example:5000/a/b", "{verb...}", "x").Replace(routes[i].pattern)
		got, v := rt.find(routes[i].method, path)
		if got != &routes[i] {
			t.Errorf("%s %s leads to %+v", routes[i].method, path, got)
		}
		if strings.Contains(routes[i].pattern, "{name...}") && v != "reg.example:5000/a/b" {
			t.Errorf("%s: variable is %q", path, v)
		}
		if (routes[i].handler == nil) == (routes[i].reason == "") {
			t.Errorf("%s %s: want either a handler or a reason", routes[i].method, routes[i].pattern)
		}
	}
}

// What is not served says so, in words that docker inspect understands.
func TestUnservedRoutes(t *testing.T) {
	for _, r := range Routes() {
		if r.Served {
			continue
		}
		path := strings.NewReplacer("{id}", "x", "{name}", "x", "{name...}", "a/b", "{verb...}", "x").Replace(r.Pattern)
		res := ask(t, &stub{}, r.Method, path, "")
		if res.StatusCode != http.StatusNotImplemented {
			t.Errorf("%s %s: status %d", r.Method, path, res.StatusCode)
			continue
		}
		if m := messageOf(t, res); !strings.Contains(m, r.Reason) || !strings.Contains(m, "not supported") {
			t.Errorf("%s %s: message %q", r.Method, path, m)
		}
	}
}

func TestErrorKinds(t *testing.T) {
	for _, c := range []struct {
		err     error
		status  int
		message string
	}{
		{fmt.Errorf("No such container: x: %w", errdefs.ErrNotFound), 404, "No such container: x"},
		{fmt.Errorf("example.com/x:latest: %w", errdefs.ErrNotFound), 404, "example.com/x:latest: not found"},
		{fmt.Errorf("bad flag: %w", errdefs.ErrInvalidArgument), 400, "bad flag"},
		{fmt.Errorf("name in use: %w", errdefs.ErrAlreadyExists), 409, "name in use"},
		{fmt.Errorf("not running: %w", errdefs.ErrFailedPrecondition), 409, "not running"},
		{fmt.Errorf("denied by rule no-root: %w", errdefs.ErrPermissionDenied), 403, "denied by rule no-root"},
		{fmt.Errorf("no backend: %w", errdefs.ErrUnavailable), 503, "no backend"},
		{fmt.Errorf("login: %w", errdefs.ErrUnauthenticated), 401, "login"},
		{fmt.Errorf("later: %w", errdefs.ErrNotImplemented), 501, "later"},
		{io.ErrUnexpectedEOF, 500, "unexpected EOF"},
	} {
		e := &stub{inspect: func(context.Context, string) (container.InspectResponse, error) {
			return container.InspectResponse{}, c.err
		}}
		r := ask(t, e, "GET", "/containers/x/json", "")
		if r.StatusCode != c.status {
			t.Errorf("%v: status %d, want %d", c.err, r.StatusCode, c.status)
		}
		if m := messageOf(t, r); m != c.message {
			t.Errorf("%v: message %q, want %q", c.err, m, c.message)
		}
	}
}

func TestCreateBodies(t *testing.T) {
	var got engine.CreateRequest
	e := &stub{create: func(ctx context.Context, r engine.CreateRequest) (container.CreateResponse, error) {
		got = r
		return container.CreateResponse{ID: "1"}, nil
	}}
	for _, c := range []struct {
		body    string
		status  int
		message string
	}{
		{`{"Image":"a","Cmd":["x"],"NoSuchKey":{"deep":[1]}}`, 201, ""},
		{`{"Image":"a","Cmd":"x"}`, 201, ""},
		{``, 400, "config cannot be empty in order to create a container"},
		{`{}`, 400, "config cannot be empty in order to create a container"},
		{`{`, 400, "invalid JSON: unexpected EOF"},
		{`{"Image":7}`, 400, "invalid JSON: json: cannot unmarshal number into Go struct field createBody.Config.Image of type string"},
		{`{"Image":"a"}{}`, 400, "unexpected content after JSON"},
		{`{"Image":"` + strings.Repeat("a", maxCreateBody) + `"}`, 400, "request body is larger than 4194304 bytes"},
	} {
		r := ask(t, e, "POST", "/containers/create?name=/n", c.body)
		name := c.body[:min(len(c.body), 40)]
		if r.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d: %s", name, r.StatusCode, c.status, messageOf(t, r))
			continue
		}
		if c.status == 201 {
			if got.Config.Image != "a" || len(got.Config.Cmd) != 1 || got.Config.Cmd[0] != "x" || got.Name != "n" || got.HostConfig == nil {
				t.Errorf("%s: engine got %+v", name, got)
			}
		} else if m := messageOf(t, r); m != c.message {
			t.Errorf("%s: message %q, want %q", name, m, c.message)
		}
	}
	r := httptest.NewRequest(http.MethodPost, "/containers/create", strings.NewReader(`{"Image":"a"}`))
	r.Header.Set("Content-Type", "text/plain")
	w := httptest.NewRecorder()
	New(Config{Engine: e, Log: slog.New(slog.DiscardHandler)}).ServeHTTP(w, r)
	if w.Code != 400 {
		t.Errorf("a form that a web page can send was taken: status %d", w.Code)
	}
}

// A context without an identity would be the engine's own.
func TestIdentityIsAlwaysSet(t *testing.T) {
	var who identity.Identity
	e := &stub{inspect: func(ctx context.Context, _ string) (container.InspectResponse, error) {
		who = identity.From(ctx)
		return container.InspectResponse{}, nil
	}}
	s := New(Config{Engine: e, Log: slog.New(slog.DiscardHandler)}).HTTPServer(t.Context())
	l := listenLocal(t, "tcp")
	go s.Serve(l)
	defer s.Close()
	r, err := http.Get("http://" + l.Addr().String() + "/containers/x/json")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if who.Tenant != identity.Anonymous.Tenant {
		t.Errorf("a tcp client is %+v", who)
	}
}

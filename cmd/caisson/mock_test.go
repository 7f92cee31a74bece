package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// request is what a mock engine was asked.
type request struct {
	Method, Path, Query string
	Header              http.Header
	Body                []byte
}

// mock is an engine that answers by table. Paths are without the version.
type mock struct {
	host string

	mu       sync.Mutex
	requests []request
}

// answer handles one route; nil answers 200 without a body.
type answer func(w http.ResponseWriter, r *http.Request)

// newMock serves routes, keyed by "METHOD /path" with path.Match's patterns, on a
// unix socket.
func newMock(t *testing.T, routes map[string]answer) *mock {
	t.Helper()
	dir, err := os.MkdirTemp("", "cs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	m := &mock{host: "unix://" + sock}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if rest, ok := strings.CutPrefix(path, "/v1."); ok {
			_, path, _ = strings.Cut(rest, "/")
			path = "/" + path
		}
		var body []byte
		if r.Header.Get("Upgrade") == "" {
			body, _ = io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		m.mu.Lock()
		m.requests = append(m.requests, request{r.Method, path, r.URL.RawQuery, r.Header.Clone(), body})
		m.mu.Unlock()
		w.Header().Set("Api-Version", "1.56")
		w.Header().Set("Ostype", "linux")
		for pattern, a := range routes {
			method, p, _ := strings.Cut(pattern, " ")
			if ok, _ := filepath.Match(p, path); ok && (method == r.Method || method == "*") {
				if a != nil {
					a(w, r)
				}
				return
			}
		}
		if path == "/_ping" {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(map[string]string{"message": "no such object: " + path})
	}))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return m
}

// find returns the requests to a path.
func (m *mock) find(method, path string) []request {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []request
	for _, r := range m.requests {
		if ok, _ := filepath.Match(path, r.Path); ok && r.Method == method {
			out = append(out, r)
		}
	}
	return out
}

// paths are all requests in order, as "METHOD /path?query".
func (m *mock) paths() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, r := range m.requests {
		p := r.Method + " " + r.Path
		if r.Query != "" {
			p += "?" + r.Query
		}
		out = append(out, p)
	}
	return out
}

// sends answers with v as JSON.
func sends(status int, v any) answer {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
}

// outcome is what a command line did.
type outcome struct {
	out, err string
	code     int
}

// caisson runs a command line in this process against the mock.
func (m *mock) caisson(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	return runApp(t, stdin, append([]string{"-H", m.host}, args...)...)
}

// runApp runs a command line in this process, without terminals.
func runApp(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	a := &app{in: strings.NewReader(stdin), out: &out, err: &errOut}
	defer a.close()
	code := a.run(context.Background(), args)
	return outcome{out.String(), errOut.String(), code}
}

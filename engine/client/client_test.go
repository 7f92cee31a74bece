package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
)

// serve runs an engine of h on a unix socket and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	return newClient(t, serveAt(t, h))
}

func serveAt(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	l := listen(t)
	srv := &http.Server{Handler: h}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return "unix://" + l.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	dir, err := os.MkdirTemp("", "cs") // short: a socket's path is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func newClient(t *testing.T, host string) *Client {
	t.Helper()
	c, err := New(Options{Host: host, UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// tooNewAt answers like an engine whose newest version is max.
func tooNewAt(max string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", max)
		v, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v"), "/")
		if strings.HasPrefix(r.URL.Path, "/v") && VersionLess(max, v) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(w).Encode(map[string]string{"message": fmt.Sprintf("client version %s is too new. Maximum supported API version is %s", v, max)})
			return
		}
		next(w, r)
	}
}

func TestOlderEngineIsSpokenToInItsVersion(t *testing.T) {
	var paths []string
	c := serve(t, tooNewAt("1.41", func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.Method+" "+r.URL.Path)
		body, _ := io.ReadAll(r.Body)
		if r.Method == http.MethodPost && r.URL.Path == "/v1.41/containers/create" && !bytes.Contains(body, []byte(`"Image":"alpine"`)) {
			t.Errorf("the repeated request lost its body: %s", body)
		}
		w.Write([]byte(`{}`))
	}))
	ctx := context.Background()
	if _, err := c.Create(ctx, CreateRequest{Config: &Config{Image: "alpine"}, HostConfig: &HostConfig{}}, "", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := c.List(ctx, ListOptions{}); err == nil {
		t.Error("an object was accepted as a list")
	}
	want := []string{"POST /v1.41/containers/create", "GET /v1.41/containers/json"}
	if strings.Join(paths, ",") != strings.Join(want, ",") {
		t.Errorf("requests %v, want %v", paths, want)
	}
}

func TestVersionIsAskedForBeforeWhatCannotBeRepeated(t *testing.T) {
	var paths []string
	c := serve(t, tooNewAt("1.44", func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.Method+" "+r.URL.Path)
		io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Docker-Container-Path-Stat", "e30=")
	}))
	ctx := context.Background()
	if err := c.WriteArchive(ctx, "c", "/", strings.NewReader("tar"), false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.StatPath(ctx, "c", "/"); err != nil {
		t.Fatal(err)
	}
	want := []string{"HEAD /_ping", "PUT /v1.44/containers/c/archive", "HEAD /v1.44/containers/c/archive"}
	if strings.Join(paths, ",") != strings.Join(want, ",") {
		t.Errorf("requests %v, want %v", paths, want)
	}
}

func TestErrorsCarryKindAndMessage(t *testing.T) {
	for status, is := range map[int]func(error) bool{
		400: errdefs.IsInvalidArgument, 401: errdefs.IsUnauthorized, 403: errdefs.IsPermissionDenied, 404: errdefs.IsNotFound,
		409: errdefs.IsConflict, 500: errdefs.IsInternal, 501: errdefs.IsNotImplemented, 503: errdefs.IsUnavailable, 418: errdefs.IsUnknown,
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			w.Write([]byte(`{"message":"why not"}`))
		})
		err := c.Kill(context.Background(), "x", "")
		if err == nil || err.Error() != "Error response from daemon: why not" || !is(err) {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

func TestErrorWithoutJSON(t *testing.T) {
	for body, want := range map[string]string{
		"":                                "Error response from daemon: request returned Bad Gateway; check if the server supports the requested API version",
		"<html>proxy</html>\n":            "Error response from daemon: <html>proxy</html>",
		strings.Repeat("x", maxErrorBody): "Error response from daemon: " + strings.Repeat("x", maxErrorBody),
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			io.WriteString(w, body+strings.Repeat(" ", len(body)))
		})
		if err := c.Kill(context.Background(), "x", ""); err == nil || err.Error() != want {
			t.Errorf("%.40q: %.80v", body, err)
		}
	}
}

func TestUnreachableEngineSaysWhatToDo(t *testing.T) {
	missing := "unix://" + filepath.Join(t.TempDir(), "none.sock")
	err := newClient(t, missing).Kill(context.Background(), "x", "")
	var ce *ConnectError
	if !errors.As(err, &ce) || !errdefs.IsUnavailable(err) {
		t.Fatalf("%T %v", err, err)
	}
	for _, want := range []string{"Cannot connect to the Caisson engine at " + missing, "Is it running?", "sudo caissond", "-H", "CAISSON_HOST"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

func TestPermissionDeniedNamesTheGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a socket that it then may not open")
	}
	c := newClient(t, "unix:///nowhere")
	err := c.connectError(&net.OpError{Op: "dial", Err: os.ErrPermission})
	for _, want := range []string{"permission denied while trying to connect", "usermod -aG caisson", "sudo"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

// countingListener counts connections.
type countingListener struct {
	net.Listener
	n atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

func TestConnectionsAreReused(t *testing.T) {
	l := &countingListener{Listener: listen(t)}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Write([]byte(`[]`))
	})}
	go srv.Serve(l)
	defer srv.Close()
	c := newClient(t, "unix://"+l.Addr().String())
	ctx := context.Background()
	for range 5 {
		if err := c.Start(ctx, "x", "", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := c.List(ctx, ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.n.Load(); n != 1 {
		t.Errorf("%d connections for ten requests one after the other", n)
	}
}

// An engine that restarts closes the connection that we keep.
func TestClosedIdleConnectionIsReplaced(t *testing.T) {
	l := listen(t)
	var served atomic.Int32
	go func() {
		for {
			cn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer cn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(cn)); err != nil {
					return
				}
				served.Add(1)
				io.WriteString(cn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
			}()
		}
	}()
	c := newClient(t, "unix://"+l.Addr().String())
	for range 3 {
		if _, err := c.List(context.Background(), ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if served.Load() != 3 {
		t.Errorf("served %d requests", served.Load())
	}
}

func TestHijack(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "tcp" || r.URL.Query().Get("stdin") != "1" {
			t.Errorf("request %v %v", r.URL, r.Header)
		}
		cn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer cn.Close()
		rw.WriteString("HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nfirst ")
		rw.Flush()
		in, err := io.ReadAll(rw)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(cn, "got %q", in)
	})
	p, err := c.BeginAttach(context.Background(), "x", AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.MediaType != "application/vnd.docker.raw-stream" {
		t.Errorf("media type %q", s.MediaType)
	}
	io.WriteString(s, "input")
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(s)
	if err != nil || string(out) != `first got "input"` {
		t.Errorf("%q %v", out, err)
	}
}

func TestHijackRefused(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		w.Write([]byte(`{"message":"container is not running"}`))
	})
	_, err := c.ExecAttach(context.Background(), "x", ExecStart{})
	if !errdefs.IsConflict(err) {
		t.Errorf("%v", err)
	}
}

// An engine may answer before it read all of a body, and then read no more.
func TestUploadRefusedHalfway(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			return
		}
		io.CopyN(io.Discard, r.Body, 1<<20)
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusForbidden)
		w.Write([]byte(`{"message":"too much"}`))
	})
	err := c.WriteArchive(context.Background(), "c", "/", io.LimitReader(zeros{}, 1<<30), false, false)
	if !errdefs.IsPermissionDenied(err) {
		t.Errorf("%v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestUploadThatCannotBeRead(t *testing.T) {
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	})
	broken := errors.New("the disk is gone")
	err := c.WriteArchive(context.Background(), "c", "/", io.MultiReader(strings.NewReader("abc"), errReader{broken}), false, false)
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestCancel(t *testing.T) {
	entered := make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		close(entered)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-entered; cancel() }()
	if _, err := c.Wait(ctx, "x", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestWaitIsRegisteredBeforeTheResult(t *testing.T) {
	release := make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/start") {
			close(release)
			return
		}
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-release
		w.Write([]byte(`{"StatusCode":7}`))
	})
	ctx := context.Background()
	p, err := c.BeginWait(ctx, "x", "removed")
	if err != nil {
		t.Fatal(err)
	}
	w, err := p.Waiting()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx, "x", "", ""); err != nil {
		t.Fatal(err)
	}
	res, err := w.Result()
	if err != nil || res.StatusCode != 7 {
		t.Errorf("%+v %v", res, err)
	}
}

func TestEngineThatDiesWhileWeWait(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	if _, err := c.Wait(context.Background(), "x", ""); !errdefs.IsUnavailable(err) {
		t.Errorf("%v", err)
	}
}

func TestMessages(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"status":"Pulling","id":"a"}`+"\n"+`{"errorDetail":{"code":401,"message":"no"},"error":"no"}`+"\n")
	})
	m, err := c.Pull(context.Background(), "docker.io/library/alpine", "latest", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if msg, err := m.Next(); err != nil || msg.Status != "Pulling" {
		t.Errorf("%+v %v", msg, err)
	}
	if _, err := m.Next(); !errdefs.IsUnauthorized(err) || err.Error() != "no" {
		t.Errorf("%v", err)
	}
	if _, err := m.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

func TestHeadersCannotBeInjected(t *testing.T) {
	var got http.Header
	host := serveAt(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header })
	c, err := New(Options{Host: host, Headers: map[string]string{"X-A": "1\r\nX-Evil: 1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Start(context.Background(), "a/b c?d", "", ""); err != nil {
		t.Fatal(err)
	}
	if got.Get("X-Evil") != "" {
		t.Error("a header's value added a header")
	}
}

func TestNamesAreEscaped(t *testing.T) {
	var got string
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { got = r.URL.EscapedPath() })
	c.Start(context.Background(), "../images/x?force=1#", "", "")
	if want := "/v" + MaxAPIVersion + "/containers/..%2Fimages%2Fx%3Fforce=1%23/start"; got != want {
		t.Errorf("path %q, want %q", got, want)
	}
}

func TestParseHost(t *testing.T) {
	for in, want := range map[string]string{
		"unix:///a/b":              "unix:///a/b",
		"tcp://1.2.3.4:2376":       "tcp://1.2.3.4:2376",
		"tcp://host":               "tcp://host:2375",
		"tcp://[::1]:80/engine/":   "tcp://[::1]:80/engine",
		"tcp://[::1]":              "tcp://[::1]:2375",
		"host:1":                   "tcp://host:1",
		" unix:///a ":              "unix:///a",
		"npipe:////./pipe/caisson": "npipe:////./pipe/caisson",
		"":                         "error", "unix://": "error", "ssh://h": "error", "ftp://h": "error", "tcp://a b": "error",
	} {
		h, err := ParseHost(in)
		got := h.String()
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s (%v), want %s", in, got, err, want)
		}
	}
}

func TestVersionLess(t *testing.T) {
	for _, x := range []struct {
		a, b string
		less bool
	}{{"1.9", "1.10", true}, {"1.10", "1.9", false}, {"1.41", "1.41", false}, {"", "1.24", true}, {"2.0", "1.99", false}, {"x", "y", false}} {
		if VersionLess(x.a, x.b) != x.less {
			t.Errorf("VersionLess(%q, %q) is not %v", x.a, x.b, x.less)
		}
	}
}

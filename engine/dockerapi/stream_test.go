package dockerapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/websocket"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/logs"
	"github.com/caisson-engine/caisson/images"
)

// shelf is an image service of which a test replaces the verbs it needs.
type shelf struct {
	Images
	pull func(images.PullOptions, images.Progress) (*images.Image, error)
	save func(io.Writer) error
}

func (s shelf) Pull(_ context.Context, o images.PullOptions, p images.Progress) (*images.Image, error) {
	return s.pull(o, p)
}

func (s shelf) Save(_ context.Context, _ []string, _ *ocispec.Platform, w io.Writer) error {
	return s.save(w)
}

func (*stub) EmitImage(context.Context, events.Action, string, string) {}

func askImages(s shelf, method, target string) *http.Response {
	w := httptest.NewRecorder()
	New(Config{Engine: &stub{}, Images: s, Log: slog.New(slog.DiscardHandler)}).ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w.Result()
}

func TestPullStream(t *testing.T) {
	var got images.PullOptions
	missing := fmt.Errorf("manifest for x:1 not found: %w", errdefs.ErrNotFound)
	r := askImages(shelf{pull: func(o images.PullOptions, _ images.Progress) (*images.Image, error) {
		got = o
		return nil, missing
	}}, http.MethodPost, "/images/create?fromImage=reg:5000/x&tag=1")
	if r.StatusCode != http.StatusNotFound || got.Ref != "reg:5000/x:1" || got.AllTags {
		t.Errorf("an error before the first message: %s for %+v", r.Status, got)
	}
	r = askImages(shelf{pull: func(o images.PullOptions, p images.Progress) (*images.Image, error) {
		got = o
		p(images.Update{Status: "Pulling from x", ID: "latest"})
		p(images.Update{ID: "0123456789ab", Status: "Downloading", Current: 1, Total: 2})
		p(images.Update{Status: "Digest: sha256:0"})
		return nil, missing
	}}, http.MethodPost, "/images/create?fromImage=reg:5000/x")
	body, _ := io.ReadAll(r.Body)
	want := `{"status":"Pulling from x","progressDetail":{},"id":"latest"}
{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"0123456789ab"}
{"status":"Digest: sha256:0"}
{"error":"manifest for x:1 not found","errorDetail":{"code":404,"message":"manifest for x:1 not found"}}
`
	if s := strings.ReplaceAll(string(body), "\r", ""); r.StatusCode != http.StatusOK || s != want || !got.AllTags {
		t.Errorf("an error after the first message: %s\n%s", r.Status, s)
	}
	askImages(shelf{pull: func(o images.PullOptions, _ images.Progress) (*images.Image, error) {
		got = o
		return &images.Image{}, nil
	}}, http.MethodPost, "/images/create?fromImage=x&tag=sha256:12")
	if got.Ref != "x@sha256:12" {
		t.Errorf("a digest as tag names %s", got.Ref)
	}
}

// A body that breaks off must not look complete.
func TestSaveThatFails(t *testing.T) {
	if r := askImages(shelf{save: func(io.Writer) error { return errdefs.ErrNotFound }}, http.MethodGet, "/images/x/get"); r.StatusCode != http.StatusNotFound {
		t.Errorf("before the first byte: %s", r.Status)
	}
	l := listenLocal(t, "tcp")
	srv := New(Config{Engine: &stub{}, Log: slog.New(slog.DiscardHandler), Images: shelf{save: func(w io.Writer) error {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<16))
		return errors.New("the disk broke")
	}}}).HTTPServer(t.Context())
	go srv.Serve(l)
	defer srv.Close()
	r, err := http.Get("http://" + l.Addr().String() + "/images/x/get")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if n, err := io.Copy(io.Discard, r.Body); err == nil {
		t.Errorf("a broken archive of %d bytes looks complete", n)
	}
}

// logger is an engine whose containers have logged two lines.
type logger struct {
	*stub
	tty  bool
	fail error
}

func (l logger) Logs(_ context.Context, _ string, o engine.LogsOptions, ready func(bool) error, fn func(logs.Record) error) error {
	if err := ready(l.tty); err != nil {
		return err
	}
	at := time.Unix(1700000000, 5)
	for _, r := range []logs.Record{
		{Time: at, Stream: logs.Stdout, Line: []byte("out\n"), Attrs: map[string]string{"b": "2", "a": "1"}},
		{Time: at, Stream: logs.Stderr, Line: []byte("err\n")},
	} {
		if err := fn(r); err != nil {
			return err
		}
	}
	return l.fail
}

func TestLogs(t *testing.T) {
	r := ask(t, logger{}, http.MethodGet, "/containers/x/logs?stdout=1&stderr=1&timestamps=1&details=1", "")
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, r.Body); err != nil {
		t.Fatal(err)
	}
	const at = "2023-11-14T22:13:20.000000005Z"
	if out.String() != at+" a=1,b=2 out\n" || errs.String() != at+"  err\n" {
		t.Errorf("got %q and %q", out.String(), errs.String())
	}
	r = ask(t, logger{tty: true}, http.MethodGet, "/containers/x/logs?stdout=1", "")
	if b, _ := io.ReadAll(r.Body); string(b) != "out\nerr\n" {
		t.Errorf("a terminal's log is %q", b)
	}
	r = ask(t, logger{fail: errors.New("the disk broke")}, http.MethodGet, "/containers/x/logs?stdout=1", "")
	if _, err := stdcopy.StdCopy(&out, &errs, r.Body); err == nil || !strings.Contains(err.Error(), "the disk broke") {
		t.Errorf("an error in the stream arrives as %v", err)
	}
	if r = ask(t, logger{}, http.MethodGet, "/containers/x/logs", ""); r.StatusCode != http.StatusBadRequest {
		t.Errorf("without a stream: %s", r.Status)
	}
}

func TestEventsFraming(t *testing.T) {
	m := events.Message{Type: events.ContainerEventType, Action: events.ActionStart, Actor: events.Actor{ID: "1", Attributes: map[string]string{"image": "i"}}}
	body := `{"Type":"container","Action":"start","Actor":{"ID":"1","Attributes":{"image":"i"}}}` + "\n"
	old := `{"status":"start","id":"1","from":"i",` + body[1:]
	for _, c := range []struct{ version, accept, kind, body string }{
		{"1.41", "", "application/json", old},
		{"1.51", "application/json-seq", "application/json", old},
		{"1.52", "application/json-seq;q=0.5", "application/json-seq", "\x1e" + body},
		{"1.52", "application/jsonl, application/x-ndjson;q=0.9", "application/x-ndjson", body},
		{"1.53", "application/jsonl, application/x-ndjson;q=0.9", "application/jsonl", body},
		{"1.56", "*/*", "application/json", body},
	} {
		r := httptest.NewRequest(http.MethodGet, "/v"+c.version+"/events", nil)
		r.Header.Set("Accept", c.accept)
		w := httptest.NewRecorder()
		New(Config{Engine: newsEngine{m: m}}).ServeHTTP(w, r)
		if w.Header().Get("Content-Type") != c.kind || w.Body.String() != c.body {
			t.Errorf("%s, %s: %s %q", c.version, c.accept, w.Header().Get("Content-Type"), w.Body.String())
		}
	}
}

type newsEngine struct {
	*stub
	m events.Message
}

func (e newsEngine) Events(context.Context, time.Time, time.Time, Filters) (<-chan events.Message, error) {
	ch := make(chan events.Message, 1)
	ch <- e.m
	close(ch)
	return ch, nil
}

func TestAttachByWebsocket(t *testing.T) {
	l := serve(t, &stub{attach: cat(true), inspect: func(context.Context, string) (r container.InspectResponse, err error) { return }}, "tcp")
	addr := l.Addr().String()
	ws, err := websocket.Dial("ws://"+addr+"/containers/x/attach/ws?stream=1&stdin=1&stdout=1&stderr=1", "", "http://"+addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if err := ws.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := ws.Write([]byte("over the web")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, err := ws.Read(buf); err != nil || string(buf[:n]) != "over the web" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	if _, err := websocket.Dial("ws://"+addr+"/containers/x/attach/ws?stream=1", "", "http://evil.example"); err == nil {
		t.Error("a page of another origin may attach")
	}
}

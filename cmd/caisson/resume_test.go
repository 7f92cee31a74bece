package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
)

func TestSkipper(t *testing.T) {
	var b bytes.Buffer
	s := skipper{w: &b}
	fmt.Fprint(&s, "one two")
	s.restart()
	fmt.Fprint(&s, "one")
	fmt.Fprint(&s, " two three")
	s.restart()
	fmt.Fprint(&s, "one two three four")
	if b.String() != "one two three four" {
		t.Errorf("%q", b.String())
	}
}

// cut breaks a connection as an engine does that is killed.
func cut() { panic(http.ErrAbortHandler) }

// An engine that is killed while a container runs, twice, loses neither its
// output nor its exit code.
func TestRunOutlivesTheEngine(t *testing.T) {
	e := &engine{t: t, program: func(_ io.Reader, out, errOut io.Writer) {
		io.WriteString(out, "1\n2\n")
		io.WriteString(errOut, "a\n")
	}}
	routes := e.routes()
	var logs, waits atomic.Int32
	routes["GET /containers/*/logs"] = func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.RawQuery; q != "follow=1&stderr=1&stdout=1&tail=all" {
			t.Errorf("logs were asked for with %s", q)
		}
		io.WriteString(frameWriter{w, 1}, "1\n2\n3\n")
		io.WriteString(frameWriter{w, 2}, "a\nb\n")
		if logs.Add(1) == 1 {
			http.NewResponseController(w).Flush()
			cut()
		}
		io.WriteString(frameWriter{w, 1}, "4\n")
	}
	routes["POST /containers/*/wait"] = func(w http.ResponseWriter, r *http.Request) {
		switch waits.Add(1) {
		case 1:
			http.NewResponseController(w).Flush()
			<-e.gone
			cut()
		case 2:
			cut()
		}
		if c := r.URL.Query().Get("condition"); c != "not-running" {
			t.Errorf("waited for %q: what was awaited may have happened already", c)
		}
		fmt.Fprint(w, `{"StatusCode":5}`)
	}
	r := newMock(t, routes).caisson(t, "", "run", "alpine")
	if r.code != 5 || r.out != "1\n2\n3\n4\n" || r.err != "WARNING: beware\na\nb\n" {
		t.Errorf("%+v", r)
	}
}

func TestExitCodeOfARemovedContainerIsNotInvented(t *testing.T) {
	e := &engine{t: t}
	routes := e.routes()
	waits := 0
	routes["POST /containers/*/wait"] = func(w http.ResponseWriter, r *http.Request) {
		if waits++; waits == 1 {
			http.NewResponseController(w).Flush()
			<-e.gone
			cut()
		}
		sends(http.StatusNotFound, object{"message": "No such container"})(w, r)
	}
	r := newMock(t, routes).caisson(t, "", "run", "--rm", "alpine")
	if r.code != 125 || !strings.Contains(r.err, "its exit code is not known") {
		t.Errorf("%+v", r)
	}
}

func TestWaitOutlivesTheEngine(t *testing.T) {
	n := 0
	m := newMock(t, map[string]answer{"POST /containers/c/wait": func(w http.ResponseWriter, _ *http.Request) {
		if n++; n < 4 {
			http.NewResponseController(w).Flush()
			cut()
		}
		fmt.Fprint(w, `{"StatusCode":9}`)
	}})
	if r := m.caisson(t, "", "wait", "c"); r.code != 0 || r.out != "9\n" {
		t.Errorf("%+v", r)
	}
}

func TestLogsOutliveTheEngine(t *testing.T) {
	n := 0
	routes := fixture()
	routes["GET /containers/*/logs"] = func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(frameWriter{w, 1}, strings.Repeat("line\n", n+1))
		if n++; n < 3 {
			http.NewResponseController(w).Flush()
			cut()
		}
	}
	m := newMock(t, routes)
	if r := m.caisson(t, "", "logs", "-f", "web"); r.code != 0 || r.out != "line\nline\nline\n" {
		t.Errorf("%+v", r)
	}
	n = 0
	if r := m.caisson(t, "", "logs", "web"); r.code == 0 {
		t.Errorf("a log that is cut was taken for whole: %+v", r)
	}
}

func TestPersistGivesUp(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	err := persist(ctx, func() error {
		if n++; n == 3 {
			cancel()
		}
		return errdefs.ErrUnavailable
	})
	if n != 3 || err == nil {
		t.Errorf("%d attempts, %v", n, err)
	}
}

package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const testID = "0123456789ab0123456789ab0123456789ab0123456789ab0123456789ab0123"

// engine plays one container's life: created, attached, waited for, started.
type engine struct {
	t        *testing.T
	images   map[string]bool
	exit     int
	startErr string
	startAs  int
	program  func(in io.Reader, out, errOut io.Writer) // what the container does

	started chan struct{}
	gone    chan struct{}
	once    sync.Once
}

// frameWriter frames one stream of output.
type frameWriter struct {
	w      io.Writer
	stream byte
}

func (f frameWriter) Write(p []byte) (int, error) {
	h := [8]byte{f.stream}
	binary.BigEndian.PutUint32(h[4:], uint32(len(p)))
	if _, err := f.w.Write(append(h[:], p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (e *engine) routes() map[string]answer {
	e.started, e.gone = make(chan struct{}), make(chan struct{})
	return map[string]answer{
		"POST /containers/create": func(w http.ResponseWriter, r *http.Request) {
			var req struct{ Image string }
			json.NewDecoder(r.Body).Decode(&req)
			if e.images != nil && !e.images[req.Image] {
				sends(http.StatusNotFound, map[string]string{"message": "No such image: " + req.Image})(w, r)
				return
			}
			sends(http.StatusCreated, map[string]any{"Id": testID, "Warnings": []string{"beware"}})(w, r)
		},
		"POST /images/create": func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			if q.Get("fromImage") == "docker.io/library/denied" {
				fmt.Fprintln(w, `{"errorDetail":{"message":"pull access denied"}}`)
				return
			}
			fmt.Fprintf(w, `{"status":"Pulling from %s","id":%q}`+"\n", q.Get("fromImage"), q.Get("tag"))
			fmt.Fprintln(w, `{"status":"Downloading","id":"aaa","progressDetail":{"current":5,"total":10}}`)
			fmt.Fprintln(w, `{"status":"Pull complete","id":"aaa","progressDetail":{}}`)
			e.images[strings.TrimPrefix(q.Get("fromImage"), "docker.io/library/")] = true
		},
		"POST /containers/*/attach": func(w http.ResponseWriter, _ *http.Request) {
			cn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				e.t.Error(err)
				return
			}
			defer cn.Close()
			io.WriteString(cn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
			select {
			case <-e.started:
			case <-e.gone:
				return
			}
			if e.program != nil {
				e.program(rw, frameWriter{cn, 1}, frameWriter{cn, 2})
			}
			e.once.Do(func() { close(e.gone) })
		},
		"POST /containers/*/wait": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			http.NewResponseController(w).Flush()
			<-e.gone
			fmt.Fprintf(w, `{"StatusCode":%d}`, e.exit)
		},
		"POST /containers/*/start": func(w http.ResponseWriter, r *http.Request) {
			if e.startErr != "" {
				e.once.Do(func() { close(e.gone) })
				sends(e.startAs, map[string]string{"message": e.startErr})(w, r)
				return
			}
			close(e.started)
			w.WriteHeader(http.StatusNoContent)
		},
	}
}

func TestRunConnectsBeforeItStarts(t *testing.T) {
	e := &engine{t: t, exit: 42, program: func(_ io.Reader, out, errOut io.Writer) {
		io.WriteString(out, "to stdout\n")
		io.WriteString(errOut, "to stderr\n")
	}}
	m := newMock(t, e.routes())
	r := m.caisson(t, "", "run", "--rm", "alpine", "true")
	if r.code != 42 || r.out != "to stdout\n" || r.err != "WARNING: beware\nto stderr\n" {
		t.Errorf("%+v", r)
	}
	got := m.paths()
	if len(got) != 4 || got[0] != "POST /containers/create" || got[3] != "POST /containers/"+testID+"/start" {
		t.Fatalf("requests %q: create first, start last, nothing else but attach and wait", got)
	}
	middle := strings.Join(got[1:3], " ")
	for _, want := range []string{"/attach?stderr=1&stdout=1&stream=1", "/wait?condition=removed"} {
		if !strings.Contains(middle, want) {
			t.Errorf("%q is not among %q", want, middle)
		}
	}
}

func TestRunFeedsStdin(t *testing.T) {
	e := &engine{t: t, program: func(in io.Reader, out, _ io.Writer) {
		b, _ := io.ReadAll(in)
		fmt.Fprintf(out, "read %q", b)
	}}
	if r := newMock(t, e.routes()).caisson(t, "some input", "run", "-i", "alpine", "cat"); r.code != 0 || r.out != `read "some input"` {
		t.Errorf("%+v", r)
	}
}

func TestRunPullsWhatIsMissing(t *testing.T) {
	e := &engine{t: t, images: map[string]bool{}}
	m := newMock(t, e.routes())
	r := m.caisson(t, "", "run", "alpine")
	want := "Unable to find image 'alpine:latest' locally\nlatest: Pulling from docker.io/library/alpine\naaa: Pull complete\nWARNING: beware\n"
	if r.code != 0 || r.err != want {
		t.Errorf("%+v, want on standard error:\n%s", r, want)
	}
	if n := len(m.find(http.MethodPost, "/containers/create")); n != 2 {
		t.Errorf("create was sent %d times", n)
	}
}

func TestRunPullPolicies(t *testing.T) {
	for _, x := range []struct {
		args    string
		here    bool
		code    int
		pulls   int
		message string
	}{
		{"--pull never", false, 125, 0, "No such image: alpine"},
		{"--pull always", true, 0, 1, "Pull complete"},
		{"--pull missing", true, 0, 0, ""},
		{"--pull sometimes", true, 125, 0, "invalid pull option: 'sometimes'"},
		{"-q", false, 0, 1, ""},
	} {
		e := &engine{t: t, images: map[string]bool{"alpine": x.here}}
		m := newMock(t, e.routes())
		r := m.caisson(t, "", append(append([]string{"run"}, strings.Fields(x.args)...), "alpine")...)
		if pulls := len(m.find(http.MethodPost, "/images/create")); r.code != x.code || pulls != x.pulls || !strings.Contains(r.err, x.message) {
			t.Errorf("%s: %d pulls, %+v", x.args, pulls, r)
		}
	}
}

func TestRunExitCodes(t *testing.T) {
	for message, code := range map[string]int{
		`exec: "nosuch": executable file not found in $PATH`:    127,
		`exec: "/etc": permission denied`:                       126,
		`exec: "/etc": is a directory`:                          126,
		`exec /x: exec format error`:                            126,
		"driver failed: port is already allocated":              125,
		"stat /nosuch: no such file or directory":               127,
		"CreateFile: The system cannot find the file specified": 127,
	} {
		e := &engine{t: t, startErr: message, startAs: http.StatusBadRequest}
		if strings.Contains(message, "The system") {
			e.startErr = strings.Replace(message, "The", "the", 1)
		}
		r := newMock(t, e.routes()).caisson(t, "", "run", "--rm", "alpine")
		if r.code != code || !strings.Contains(r.err, "caisson: Error response from daemon: "+e.startErr+"\n\nRun 'caisson run --help'") {
			t.Errorf("%s: %+v", message, r)
		}
	}
}

func TestRunDetached(t *testing.T) {
	e := &engine{t: t}
	m := newMock(t, e.routes())
	r := m.caisson(t, "", "run", "-d", "-i", "alpine", "sleep", "1")
	if r.code != 0 || r.out != testID+"\n" {
		t.Errorf("%+v", r)
	}
	if got := m.paths(); len(got) != 2 {
		t.Errorf("requests %q", got)
	}
	var body struct{ AttachStdin, AttachStdout, OpenStdin, StdinOnce bool }
	json.Unmarshal(m.find(http.MethodPost, "/containers/create")[0].Body, &body)
	if body.AttachStdin || body.AttachStdout || body.StdinOnce || !body.OpenStdin {
		t.Errorf("%+v", body)
	}
}

func TestRunRefusesBeforeItAsks(t *testing.T) {
	for args, want := range map[string]string{
		"-d -a stdout x":                   "conflicting options: cannot specify both --attach and --detach",
		"--rm --restart always x":          "conflicting options: cannot specify both --restart and --rm",
		"--detach-keys ctrl-1 x":           "invalid detach keys (ctrl-1)",
		"-m lots x":                        "invalid size: 'lots'",
		"-p 80:90:100:x x":                 "invalid IP address: 80:90",
		"--memory-swappiness 101 x":        "Valid memory swappiness range is 0-100",
		"--env-file /nosuch/file x":        "--env-file: open /nosuch/file",
		"--security-opt seccomp=/nosuch x": "opening seccomp profile (/nosuch) failed",
		"--mount type=bind,bogus=1 x":      "unknown option 'bogus'",
		"--nosuch x":                       "unknown flag: --nosuch",
		"":                                 "'caisson run' requires at least 1 argument",
	} {
		m := newMock(t, nil)
		r := m.caisson(t, "", append([]string{"run"}, strings.Fields(args)...)...)
		if r.code == 0 || !strings.Contains(r.err, want) || len(m.paths()) != 0 {
			t.Errorf("%s: %+v, requests %v", args, r, m.paths())
		}
		if args != "" && r.code != 125 {
			t.Errorf("%s: exit code %d", args, r.code)
		}
	}
}

func TestTTYNeedsOne(t *testing.T) {
	r := newMock(t, nil).caisson(t, "", "run", "-it", "alpine")
	if r.code != 1 || !strings.Contains(r.err, "stdin is not a terminal") {
		t.Errorf("%+v", r)
	}
}

func TestCIDFile(t *testing.T) {
	e := &engine{t: t}
	m := newMock(t, e.routes())
	file := filepath.Join(t.TempDir(), "cid")
	if r := m.caisson(t, "", "create", "--cidfile", file, "alpine"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if b, _ := os.ReadFile(file); string(b) != testID {
		t.Errorf("the file holds %q", b)
	}
	r := m.caisson(t, "", "create", "--cidfile", file, "alpine")
	if r.code == 0 || !strings.Contains(r.err, "container ID file found") {
		t.Errorf("%+v", r)
	}
	other := filepath.Join(t.TempDir(), "cid")
	e.images = map[string]bool{}
	m.caisson(t, "", "create", "--pull", "never", "--cidfile", other, "alpine")
	if _, err := os.Stat(other); err == nil {
		t.Error("the file of a container that was not made is still there")
	}
}

// A program may close its output before it ends.
func TestExecWaitsForTheExitCode(t *testing.T) {
	asked := 0
	m := newMock(t, map[string]answer{
		"POST /containers/c/exec": sends(http.StatusCreated, map[string]string{"Id": "e1"}),
		"POST /exec/e1/start": func(w http.ResponseWriter, _ *http.Request) {
			cn, _, _ := http.NewResponseController(w).Hijack()
			io.WriteString(cn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
			io.WriteString(frameWriter{cn, 1}, "out")
			cn.Close()
		},
		"GET /exec/e1/json": func(w http.ResponseWriter, r *http.Request) {
			asked++
			if asked < 3 {
				sends(200, map[string]any{"ID": "e1", "Running": true, "ExitCode": nil})(w, r)
				return
			}
			sends(200, map[string]any{"ID": "e1", "Running": false, "ExitCode": 9})(w, r)
		},
	})
	r := m.caisson(t, "", "exec", "-e", "A=1", "-u", "me", "-w", "/d", "c", "sh", "-c", "exit 9")
	if r.code != 9 || r.out != "out" {
		t.Errorf("%+v", r)
	}
	var cfg map[string]any
	json.Unmarshal(m.find(http.MethodPost, "/containers/c/exec")[0].Body, &cfg)
	if got := text(cfg); got != `{"AttachStderr":true,"AttachStdin":false,"AttachStdout":true,"Cmd":["sh","-c","exit 9"],"DetachKeys":"","Env":["A=1"],"Privileged":false,"Tty":false,"User":"me","WorkingDir":"/d"}` {
		t.Errorf("exec was asked for with %s", got)
	}
}

func TestRmForceOfWhatIsNotThere(t *testing.T) {
	m := newMock(t, nil)
	if r := m.caisson(t, "", "rm", "-f", "x"); r.code != 0 || !strings.Contains(r.err, "no such object") {
		t.Errorf("%+v", r)
	}
	if r := m.caisson(t, "", "rm", "x"); r.code != 1 {
		t.Errorf("%+v", r)
	}
}

func TestSeveralContainers(t *testing.T) {
	m := newMock(t, map[string]answer{"POST /containers/[ac]/stop": nil})
	r := m.caisson(t, "", "stop", "-t", "0", "a", "b", "c")
	if r.code != 1 || r.out != "a\nc\n" || !strings.Contains(r.err, "/containers/b/stop") {
		t.Errorf("%+v", r)
	}
	for _, q := range m.find(http.MethodPost, "/containers/*/stop") {
		if q.Query != "t=0" {
			t.Errorf("query %q", q.Query)
		}
	}
}

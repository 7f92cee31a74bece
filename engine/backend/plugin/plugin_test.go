package plugin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/backend/backendtest"
	"github.com/caisson-engine/caisson/engine/backend/fake"
)

// TestMain lets this test binary be the plugin, too.
func TestMain(m *testing.M) {
	if os.Getenv(handshake.MagicCookieKey) == "" {
		os.Exit(m.Run())
	}
	err := Serve(func(_ context.Context, h Host) (backend.Backend, error) {
		if why := os.Getenv("TEST_REFUSE"); why != "" {
			return nil, errors.New(why)
		}
		h.Log.Info("serving")
		return fake.New(fake.Options{
			Name:       os.Getenv("TEST_NAME"),
			StateFile:  filepath.Join(h.StateDir, "fake.json"),
			FaultsFile: filepath.Join(h.StateDir, "faults.json"),
		})
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// stateDir is short enough for a socket inside, wherever TMPDIR is.
func stateDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func options(t testing.TB) Options {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Name: "fake", Path: self, StateDir: stateDir(t), Env: []string{"TEST_NAME=fake", "GORACE=atexit_sleep_ms=0"}, Log: slog.Default()}
}

func launch(t testing.TB, o Options) *Client {
	t.Helper()
	c, err := Launch(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Kill)
	return c
}

// sigkill kills the plugin behind its client's back.
func sigkill(t testing.TB, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	for _, tls := range []bool{false, true} {
		if tls && testing.Short() {
			break // the same once more
		}
		t.Run(fmt.Sprintf("tls=%v", tls), func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
				o := options(t)
				o.TLS = tls
				c := launch(t, o)
				process := func(_ bool, args ...string) []byte {
					data, err := json.Marshal(map[string]any{"args": args})
					if err != nil {
						t.Fatal(err)
					}
					return data
				}
				return backendtest.Fixture{
					Backend: c,
					Container: func(_ *testing.T, id string, terminal bool, args ...string) *backendpb.Container {
						return &backendpb.Container{Id: id, Spec: fmt.Appendf(nil, `{"process":%s}`, process(terminal, args...))}
					},
					Process: process,
					Crash: func(t *testing.T, meanwhile func()) backend.Backend {
						sigkill(t, c.PID())
						<-c.Done()
						meanwhile()
						c = launch(t, o)
						return c
					},
					NotExecutable: "noexec",
					TerminalSize:  []string{"tty"},
					Flood:         func(n int) []string { return []string{"flood", fmt.Sprint(n)} },
					Without:       map[string]string{"read": "the fake's shell has no read"},
				}
			})
		})
	}
}

func TestReattach(t *testing.T) {
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", tls), func(t *testing.T) {
			o := options(t)
			o.TLS = tls
			first := launch(t, o)
			if first.Reattached() {
				t.Error("the first launch reattached")
			}
			if err := first.Open(t.Context(), &backendpb.Sandbox{Id: "box"}); err != nil {
				t.Fatal(err)
			}
			first.Disconnect()
			second := launch(t, o)
			if !second.Reattached() || second.PID() != first.PID() {
				t.Errorf("second launch: reattached %v, pid %d, want pid %d", second.Reattached(), second.PID(), first.PID())
			}
			list, err := second.List(t.Context())
			if err != nil || len(list.Sandboxes) != 1 {
				t.Errorf("List after reattach: %v, error %v", list, err)
			}
			// A plugin that is not our child is noticed dead all the same.
			sigkill(t, second.PID())
			<-second.Done()
			if _, err := second.Info(t.Context()); !errdefs.IsUnavailable(err) {
				t.Errorf("Info of a dead plugin: %v, want kind unavailable", err)
			}
			third := launch(t, o)
			if third.Reattached() || third.PID() == first.PID() {
				t.Error("third launch took over a dead plugin")
			}
			third.Kill()
			<-third.Done()
			third.Kill() // idempotent
		})
	}
}

func TestTLSRefusesStrangers(t *testing.T) {
	o := options(t)
	o.TLS = true
	c := launch(t, o)
	r, err := readRecord(o.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	o.TLS = false
	if _, err := reattach(t.Context(), o, r); err == nil {
		t.Error("a client without the certificate was served")
	}
	other := stateDir(t)
	if err := ensureKey(other); err != nil {
		t.Fatal(err)
	}
	o.TLS, o.StateDir = true, other
	if _, err := reattach(t.Context(), o, r); err == nil {
		t.Error("a client with another certificate was served")
	}
	if _, err := c.Info(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestUpgradeStartsTheNewBinary(t *testing.T) {
	o := options(t)
	first := launch(t, o)
	first.Disconnect()
	r, err := readRecord(o.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	r.Binary.Size++ // as if the file had been replaced since
	if err := r.write(o.StateDir); err != nil {
		t.Fatal(err)
	}
	second := launch(t, o)
	if second.Reattached() || second.PID() == first.PID() {
		t.Error("the old binary went on")
	}
}

func TestOrphanWithoutRecordIsEnded(t *testing.T) {
	o := options(t)
	first := launch(t, o)
	first.Disconnect()
	if err := os.Remove(filepath.Join(o.StateDir, recordName)); err != nil {
		t.Fatal(err)
	}
	second := launch(t, o)
	if second.PID() == first.PID() {
		t.Fatal("took over a plugin without a record")
	}
	if _, err := first.id.find(); err == nil {
		t.Error("the orphan still runs")
	}
}

func TestRecordOfAnotherProcessIsNotBelieved(t *testing.T) {
	o := options(t)
	first := launch(t, o)
	first.Disconnect()
	r, err := readRecord(o.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	r.PID = os.Getpid() // alive, but with another start time
	if err := r.write(o.StateDir); err != nil {
		t.Fatal(err)
	}
	if second := launch(t, o); second.Reattached() {
		t.Error("reattached to a process that is not the recorded one")
	}
}

func TestStartFailures(t *testing.T) {
	o := options(t)
	o.Env = append(o.Env, "TEST_REFUSE=cgroups are missing here")
	if _, err := Launch(t.Context(), o); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "cgroups are missing here") {
		t.Errorf("backend that refuses: %v", err)
	}
	o = options(t)
	o.Name = "other"
	if _, err := Launch(t.Context(), o); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("backend with another name: %v", err)
	}
	if holder, err := readLock(o.StateDir); err != nil {
		t.Error(err)
	} else if _, err := holder.find(); err == nil {
		t.Error("the backend with another name was left running")
	}
	o = options(t)
	o.Path = filepath.Join(o.StateDir, "nothing")
	if _, err := Launch(t.Context(), o); !errdefs.IsNotFound(err) {
		t.Errorf("no binary: %v", err)
	}
	if err := os.WriteFile(o.Path, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Launch(t.Context(), o); !errdefs.IsUnavailable(err) {
		t.Errorf("no program: %v", err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	for script, what := range map[string]string{
		"#!/bin/sh\nexit 0\n":                                    "silent",
		"#!/bin/sh\necho hello; sleep 60\n":                      "chatty",
		"#!/bin/sh\necho '1|1|unix|/nowhere|grpc|'; sleep 60\n":  "liar",
		"#!/bin/sh\necho '1|77|unix|/nowhere|grpc|'; sleep 60\n": "from the future",
	} {
		if err := os.WriteFile(o.Path, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Launch(t.Context(), o); !errdefs.IsUnavailable(err) {
			t.Errorf("%s program: %v", what, err)
		}
	}
}

func TestErrorKindsCrossTheWire(t *testing.T) {
	o := options(t)
	c := launch(t, o)
	for name, kind := range fake.Kinds {
		faults, err := json.Marshal(fake.Faults{"State": {Kind: name}, "Attach": {Kind: name}, "ReadArchive": {Kind: name}, "Events": {Kind: name}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(o.StateDir, "faults.json"), faults, 0o600); err != nil {
			t.Fatal(err)
		}
		calls := map[string]func() error{
			"State":  func() error { _, err := c.State(t.Context(), "x"); return err },
			"Attach": func() error { _, err := c.Attach(t.Context(), &backendpb.AttachOpen{}); return err },
			"Events": func() error { _, err := c.Events(t.Context(), 0); return err },
			"ReadArchive": func() error {
				_, err := c.ReadArchive(t.Context(), &backendpb.PathRequest{})
				return err
			},
		}
		for verb, call := range calls {
			err := call()
			if !errors.Is(err, kind) || !strings.Contains(err.Error(), "fault injected into "+verb) {
				t.Errorf("%s with %s: %v", verb, name, err)
			}
			if strings.Contains(err.Error(), "rpc error") || strings.Count(err.Error(), kind.Error()) > 1 {
				t.Errorf("%s with %s has a bad message: %v", verb, name, err)
			}
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestWriteArchiveEndsWhenTheBackendRefuses(t *testing.T) {
	c := launch(t, options(t))
	if err := c.WriteArchive(t.Context(), &backendpb.WriteTarget{Path: "/"}, endless{}); !errdefs.IsNotFound(err) {
		t.Errorf("endless garbage: %v", err)
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	o := options(t)
	c := launch(t, o)
	if err := os.WriteFile(filepath.Join(o.StateDir, "faults.json"), []byte(`{"State":{"hang":true},"Attach":{"hang":true}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.State(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("State: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Attach(ctx, &backendpb.AttachOpen{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Attach: %v", err)
	}
}

func TestServeByHandSaysWhatToDo(t *testing.T) {
	err := Serve(func(context.Context, Host) (backend.Backend, error) { panic("opened") })
	if err == nil || !strings.Contains(err.Error(), "caissond") {
		t.Errorf("Serve without an engine: %v", err)
	}
}

func TestSocketIsPrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("TCP with certificates is used instead")
	}
	o := options(t)
	o.StateDir = filepath.Join(o.StateDir, strings.Repeat("long/", 20))
	launch(t, o) // too long for a socket inside
	r, err := readRecord(o.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Addr) > 104 {
		t.Errorf("socket path %s has %d bytes", r.Addr, len(r.Addr))
	}
	fi, err := os.Stat(filepath.Dir(r.Addr))
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("directory of the socket: %v, error %v", fi, err)
	}
	if _, err := net.Dial("unix", r.Addr); err != nil {
		t.Error(err)
	}
}

func BenchmarkInfo(b *testing.B) {
	for _, tls := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v", tls), func(b *testing.B) {
			o := options(b)
			o.TLS = tls
			c := launch(b, o)
			for b.Loop() {
				if _, err := c.Info(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(pss(b, c.PID()), "KiB-PSS")
		})
	}
}

// pss is what a process costs in memory, in KiB.
func pss(b *testing.B, pid int) float64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var kib float64
		if n, _ := fmt.Sscanf(sc.Text(), "Pss: %f kB", &kib); n == 1 {
			return kib
		}
	}
	b.Fatal("no Pss")
	return 0
}

package kit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
)

const envVictim = "KIT_TEST_VICTIM_DIR"

// TestMain runs the process that TestKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(envVictim); dir != "" {
		p, err := NewPumps(slog.New(slog.NewTextHandler(os.Stderr, nil)))
		if err != nil {
			panic(err)
		}
		cfg := victimConfig(dir)
		cfg.Stdout, cfg.Stderr = os.NewFile(3, "stdout"), os.NewFile(4, "stderr")
		o, err := p.Open(cfg)
		if err != nil {
			panic(err)
		}
		o.Run()
		select {}
	}
	os.Exit(m.Run())
}

func victimConfig(dir string) OutputConfig {
	return OutputConfig{Dir: dir, Recover: true, Log: &logs.Config{
		Path: filepath.Join(dir, "log"), Options: map[string]string{"max-size": "50k", "max-file": "1000"},
	}}
}

func newPumps(t *testing.T) *Pumps {
	t.Helper()
	p, err := NewPumps(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func openOutput(t *testing.T, p *Pumps, c OutputConfig) *Output {
	t.Helper()
	o, err := p.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	return o
}

func readLog(t *testing.T, cfg logs.Config, stream string) string {
	t.Helper()
	var b strings.Builder
	if err := logs.Read(t.Context(), cfg, logs.Options{Stdout: stream == logs.Stdout, Stderr: stream == logs.Stderr, Tail: -1}, func(r logs.Record) error {
		b.Write(r.Line)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func collect(t *testing.T, r *Reader, into *[2]bytes.Buffer) error {
	t.Helper()
	for {
		piece, err := r.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		into[piece.Stream-backendpb.AttachOutput_STDOUT].Write(piece.Data)
	}
}

func TestOutputReachesLogAndClients(t *testing.T) {
	dir := t.TempDir()
	cfg := logs.Config{Path: filepath.Join(dir, "log"), Options: map[string]string{"max-size": "-1"}}
	o := openOutput(t, newPumps(t), OutputConfig{Dir: dir, Log: &cfg})
	stdout, stderr, err := o.Pipes()
	if err != nil {
		t.Fatal(err)
	}
	var got [2][2]bytes.Buffer
	var wg sync.WaitGroup
	for i := range got {
		r := o.Attach(true, true)
		wg.Go(func() {
			if err := collect(t, r, &got[i]); err != nil {
				t.Error(err)
			}
		})
	}
	o.Run()
	var want [2]bytes.Buffer
	random := rand.New(rand.NewPCG(1, 1))
	for i := range 3000 {
		line := fmt.Sprintf("%d %s", i, strings.Repeat("x", random.IntN(3*logs.MaxLine/(1+random.IntN(1000)))))
		if i%3 > 0 {
			line += "\n"
		}
		w := random.IntN(2)
		want[w].WriteString(line)
		if _, err := [2]*os.File{stdout, stderr}[w].WriteString(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Drain(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for i := range want {
		for c := range got {
			if !bytes.Equal(got[c][i].Bytes(), want[i].Bytes()) {
				t.Errorf("client %d, %s: got %d bytes, want %d", c, streamNames[i], got[c][i].Len(), want[i].Len())
			}
		}
		if l := readLog(t, cfg, streamNames[i]); l != want[i].String() {
			t.Errorf("log of %s: got %d bytes, want %d", streamNames[i], len(l), want[i].Len())
		}
	}
	// The spool was given back.
	var st unix.Stat_t
	for _, s := range streamFiles {
		if err := unix.Stat(filepath.Join(dir, s+".spool"), &st); err != nil || st.Blocks*512 > 2*punchStep {
			t.Errorf("spool of %s takes %d bytes: %v", s, st.Blocks*512, err)
		}
	}
}

func TestOutputOfTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("needs terminals: " + err.Error())
	}
	defer master.Close()
	var number int
	if err := control(master, func(fd int) (err error) {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("needs terminals: " + err.Error())
	}
	dir := t.TempDir()
	cfg := logs.Config{Path: filepath.Join(dir, "log")}
	o := openOutput(t, newPumps(t), OutputConfig{Dir: dir, Log: &cfg, Terminal: true})
	if err := o.SetConsole(master); err != nil {
		t.Fatal(err)
	}
	var got [2]bytes.Buffer
	r := o.Attach(true, true)
	done := make(chan error, 1)
	go func() { done <- collect(t, r, &got) }()
	o.Run()
	var want strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&want, "line %d\r\n", i)
		if _, err := fmt.Fprintf(slave, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	_ = slave.Close()
	if err := o.Drain(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got[0].String() != want.String() {
		t.Errorf("client: got %d bytes, want %d", got[0].Len(), want.Len())
	}
	if l := readLog(t, cfg, logs.Stdout); l != want.String() {
		t.Errorf("log: got %d bytes, want %d", len(l), want.Len())
	}
}

// TestSlowClient: a client that does not read holds the process up, but not for
// ever, and loses nothing when it reads on.
func TestSlowClient(t *testing.T) {
	dir := t.TempDir()
	o := openOutput(t, newPumps(t), OutputConfig{Dir: dir})
	stdout, _, err := o.Pipes()
	if err != nil {
		t.Fatal(err)
	}
	r := o.Attach(true, false)
	o.Run()
	const total = 3 * maxLag
	written := make(chan struct{})
	go func() {
		defer close(written)
		block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		for range total / len(block) {
			if _, err := stdout.Write(block); err != nil {
				t.Error(err)
			}
		}
	}()
	for {
		o.mu.Lock()
		held := o.held
		o.mu.Unlock()
		if held {
			break
		}
		time.Sleep(time.Millisecond)
	}
	n := 0
	for n < total {
		piece, err := r.Recv()
		if err != nil {
			t.Fatal(err)
		}
		n += len(piece.Data)
	}
	<-written
	if n != total {
		t.Errorf("got %d bytes, want %d", n, total)
	}
}

// TestKill kills the process that moves output, again and again, while two
// streams are written, and then looks for every line exactly once.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	o := openOutput(t, newPumps(t), victimConfig(dir)) // makes and holds the pipes
	stdout, stderr, err := o.Pipes()
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 60
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var want [2]strings.Builder
	for i, f := range []*os.File{stdout, stderr} {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 7))
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				line := fmt.Sprintf("%d %s\n", n, strings.Repeat("y", random.IntN(200)))
				if n%1000 == 7 {
					line = fmt.Sprintf("%d %s\n", n, strings.Repeat("z", 3*logs.MaxLine))
				}
				want[i].WriteString(line)
				if _, err := f.WriteString(line); err != nil {
					t.Error(err)
					return
				}
				if n%64 == 0 {
					time.Sleep(time.Duration(random.IntN(300)) * time.Microsecond)
				}
			}
		})
	}
	for range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), envVictim+"="+dir)
		cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{stdout, stderr}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(5+rand.IntN(40)) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	close(stop)
	// The writers may be waiting for room.
	cfg := victimConfig(dir)
	cfg.Stdout, cfg.Stderr = stdout, stderr
	last := openOutput(t, newPumps(t), cfg)
	last.Run()
	wg.Wait()
	if err := last.Drain(); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		got := readLog(t, *cfg.Log, streamNames[i])
		if got == want[i].String() {
			t.Logf("%s: %d lines", streamNames[i], strings.Count(got, "\n"))
			continue
		}
		g, w := strings.SplitAfter(got, "\n"), strings.SplitAfter(want[i].String(), "\n")
		n := 0
		for n < len(g) && n < len(w) && g[n] == w[n] {
			n++
		}
		t.Errorf("%s: %d lines, want %d; first wrong one is %d: %.80q, want %.80q", streamNames[i], len(g), len(w), n, g[min(n, len(g)-1)], w[min(n, len(w)-1)])
	}
}

func BenchmarkOutput(b *testing.B) {
	dir := b.TempDir()
	p, err := NewPumps(slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	o, err := p.Open(OutputConfig{Dir: dir, Log: &logs.Config{Path: filepath.Join(dir, "log")}})
	if err != nil {
		b.Fatal(err)
	}
	defer o.Close()
	stdout, _, err := o.Pipes()
	if err != nil {
		b.Fatal(err)
	}
	o.Run()
	block := bytes.Repeat([]byte(strings.Repeat("0123456789", 10)+"\n"), 640)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		if _, err := stdout.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := o.Drain(); err != nil {
		b.Fatal(err)
	}
}

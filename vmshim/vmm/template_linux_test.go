package vmm

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// makeTemplate boots, waits for the agent and saves.
func makeTemplate(t testing.TB, q *QEMU, shape Shape) *Template {
	t.Helper()
	m := start(t, q, Config{Shape: shape, Savable: true, Jail: testJail()})
	newAgent(m).must(t, "pong template", "ping template")
	tmpl, err := m.Save(within(t, time.Minute))
	if err != nil {
		t.Fatalf("%v\n%s", err, m.Console())
	}
	t.Cleanup(func() { tmpl.Close() })
	if !errors.Is(m.Err(), ErrSaved) {
		t.Fatalf("the saved machine ended with %v", m.Err())
	}
	return tmpl
}

func allocated(t testing.TB, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestTemplate(t *testing.T) {
	q, shape := setUp(t)
	tmpl := makeTemplate(t, q, shape)
	t.Logf("memory %d KiB, state %d KiB", allocated(t, tmpl.Memory)>>10, allocated(t, tmpl.State)>>10)

	at := time.Now()
	m := start(t, q, Config{Shape: shape, Template: tmpl, Jail: testJail()})
	attached := time.Since(at)
	newAgent(m).must(t, "pong clone", "ping clone")
	t.Logf("restored %v, first answer %v", attached, time.Since(at))
}

// Ten at once, all of one template, each with memory of its own.
func TestParallelClones(t *testing.T) {
	q, shape := setUp(t)
	tmpl := makeTemplate(t, q, shape)
	before := digest(t, tmpl.Memory)

	const n = 10
	randoms := make([]string, n)
	errs := make([]error, n)
	at := time.Now()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			errs[i] = func() error {
				jail := testJail()
				jail.UID, jail.GID = jail.UID+i, jail.GID+i
				l, err := q.Launch(Config{Shape: shape, Template: tmpl, Jail: jail})
				if err != nil {
					return err
				}
				m, err := q.Attach(within(t, time.Minute), l)
				if err != nil {
					return err
				}
				defer m.Kill()
				a := newAgent(m)
				if _, err := a.ask("ping"); err != nil {
					return err
				}
				// Clones wake up with the same random state; the host's seed is what
				// parts them.
				seed := make([]byte, 32)
				if _, err := rand.Read(seed); err != nil {
					return err
				}
				if got, err := a.ask("entropy %s", hex.EncodeToString(seed)); err != nil || got != "ok" {
					return fmt.Errorf("entropy: %q, %w", got, err)
				}
				if got, err := a.ask("touch 20"); err != nil || got != "ok" {
					return fmt.Errorf("touch: %q, %w", got, err)
				}
				randoms[i], err = a.ask("random")
				return err
			}()
		})
	}
	all.Wait()
	t.Logf("%d clones answered, seeded, used memory and died in %v", n, time.Since(at))
	seen := map[string]bool{}
	for i := range n {
		if errs[i] != nil {
			t.Fatalf("clone %d: %v", i, errs[i])
		}
		if seen[randoms[i]] || len(randoms[i]) != 32 {
			t.Errorf("clone %d: random bytes %q, which another has too", i, randoms[i])
		}
		seen[randoms[i]] = true
	}
	if !bytes.Equal(before, digest(t, tmpl.Memory)) {
		t.Error("the template's memory changed")
	}
}

// Nobody who holds a template can change it, not even root.
func TestTemplateIsSealed(t *testing.T) {
	q, shape := setUp(t)
	tmpl := makeTemplate(t, q, shape)
	for name, f := range map[string]*os.File{"memory": tmpl.Memory, "state": tmpl.State} {
		if _, err := f.WriteAt([]byte("x"), 0); err == nil {
			t.Errorf("%s: written to", name)
		}
		if err := f.Truncate(0); err == nil {
			t.Errorf("%s: cut", name)
		}
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096); err == nil {
			t.Errorf("%s: a hole was punched", name)
		}
		if _, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
			t.Errorf("%s: mapped for writing", name)
		}
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_EXEC); err == nil {
			t.Errorf("%s: seals can still be changed", name)
		}
	}
}

// A template fits only the shape that it was made with.
func TestTemplateOfAnotherShape(t *testing.T) {
	q, shape := setUp(t)
	tmpl := makeTemplate(t, q, shape)
	for name, change := range map[string]func(*Shape){
		"memory":  func(s *Shape) { s.Memory += 64 << 20 },
		"cpus":    func(s *Shape) { s.CPUs++ },
		"disks":   func(s *Shape) { s.Disks = s.Disks[1:] },
		"nics":    func(s *Shape) { s.NICs = 1 },
		"ports":   func(s *Shape) { s.Ports = s.Ports[:1] },
		"cmdline": func(s *Shape) { s.Cmdline = "x" },
		"initrd":  func(s *Shape) { s.Initrd = s.Kernel },
	} {
		other := shape
		change(&other)
		if l, err := q.Launch(Config{Shape: other, Template: tmpl, Jail: testJail()}); err == nil {
			t.Errorf("%s: started", name)
			l.Close()
		}
	}
}

package template

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// made is a template of two files that can be asked whether they are open.
func made(t *testing.T) *vmm.Template {
	t.Helper()
	files := [2]*os.File{}
	for i := range files {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = f
	}
	return &vmm.Template{Memory: files[0], State: files[1]}
}

func open(tmpl *vmm.Template) bool {
	_, err := tmpl.Memory.Stat()
	return err == nil
}

// builder counts.
type builder struct {
	t    *testing.T
	n    atomic.Int32
	fail atomic.Bool
}

func (b *builder) build() (*vmm.Template, error) {
	b.n.Add(1)
	if b.fail.Load() {
		return nil, errors.New("no")
	}
	return made(b.t), nil
}

func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reported int
		s := New(Options{Max: 2, MaxAge: time.Hour, Retry: time.Minute, Failed: func(Key, error) { reported++ }})
		b := &builder{t: t}
		get := func(key Key) *vmm.Template {
			tmpl, release := s.Get(key, b.build)
			if release != nil {
				release()
				release()
			}
			synctest.Wait()
			return tmpl
		}
		a := Key{"tenant a", "shape"}
		if get(a) != nil {
			t.Error("there at once")
		}
		first := get(a)
		if first == nil || get(a) != first || b.n.Load() != 1 {
			t.Fatalf("first %p, then %p, made %d times", first, get(a), b.n.Load())
		}
		// Another tenant gets none of a's.
		if get(Key{"tenant b", "shape"}) != nil {
			t.Error("tenants share")
		}

		// Too old: the old one serves while the next is made.
		time.Sleep(2 * time.Hour)
		if get(a) != first {
			t.Error("the old one does not serve")
		}
		second := get(a)
		if second == nil || second == first || open(first) || !open(second) {
			t.Errorf("after its time: %p and %p, open %v and %v", first, second, open(first), open(second))
		}

		// Room for two: b was longest not asked for.
		time.Sleep(time.Second)
		get(Key{"tenant c", "shape"})
		if s.Len() != 2 || get(a) != second {
			t.Errorf("%d serve, a's is %p", s.Len(), get(a))
		}
		if n := b.n.Load(); n != 4 {
			t.Errorf("made %d times, want 4", n)
		}
		if get(Key{"tenant b", "shape"}) != nil {
			t.Error("b's was not dropped")
		}

		// A failure is told once, and not repeated at once.
		b.fail.Store(true)
		bad := Key{"tenant d", "shape"}
		get(bad)
		n := b.n.Load()
		get(bad)
		if b.n.Load() != n || reported != 1 {
			t.Errorf("tried again at once (%d, %d), reported %d times", n, b.n.Load(), reported)
		}
		time.Sleep(2 * time.Minute)
		b.fail.Store(false)
		get(bad)
		if get(bad) == nil {
			t.Error("not tried again later")
		}
		s.Close()
		if tmpl, _ := s.Get(a, b.build); tmpl != nil {
			t.Error("a closed store gives templates")
		}
	})
}

// A template that is in use is not closed under its user.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Max: 1})
		b := &builder{t: t}
		a := Key{"a", "shape"}
		s.Get(a, b.build)
		synctest.Wait()
		tmpl, release := s.Get(a, b.build)
		if tmpl == nil {
			t.Fatal("none")
		}
		s.Get(Key{"b", "shape"}, b.build)
		synctest.Wait()
		if !open(tmpl) {
			t.Error("closed while it was used")
		}
		release()
		if open(tmpl) {
			t.Error("not closed after its last use")
		}
		s.Close()
	})
}

// Closing waits for what is being made, and keeps nothing of it.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		tmpl := made(t)
		s.Get(Key{"a", "shape"}, func() (*vmm.Template, error) {
			time.Sleep(time.Second)
			return tmpl, nil
		})
		synctest.Wait()
		s.Close()
		if open(tmpl) {
			t.Error("still open")
		}
	})
}

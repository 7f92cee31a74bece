package audit

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caisson-engine/caisson/engine/identity"
)

func read(t *testing.T, path string) (out []Entry) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var e Entry
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			t.Fatalf("%q: %v", s.Text(), err)
		}
		out = append(out, e)
	}
	return out
}

// A full file makes room, and what is kept is bounded.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "audit.log")
	l, err := Open(path, 2000, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 100 {
		if err := l.Append(Entry{Action: "create a container", Outcome: Allowed, Client: "uid:7"}); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 3 {
		t.Fatalf("%v %v", files, err)
	}
	for _, f := range files {
		if st, err := os.Stat(f); err != nil || st.Size() > 2000 || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, st, err)
		}
		if e := read(t, f); len(e) == 0 || e[0].Client != "uid:7" {
			t.Errorf("%s: %+v", f, e)
		}
	}
	// Opened again it goes on where it was.
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if l, err = Open(path, 1<<20, 3); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Append(Entry{Action: "x"}); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || after.Size() <= before.Size() {
		t.Errorf("%v after %v: %v", after, before, err)
	}
}

func TestLinesNeverMix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := Open(path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if err := l.Append(Entry{Object: strings.Repeat("x\n", maxText)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := read(t, path); len(got) != 400 {
		t.Errorf("%d lines", len(got))
	}
}

func TestWho(t *testing.T) {
	var e Entry
	e.By(identity.Identity{Tenant: "web", UID: 1000, GID: 100, PID: 4})
	if e.Client != "uid:1000" || e.Tenant != "web" || e.GID == nil || *e.GID != 100 {
		t.Errorf("%+v", e)
	}
	e = Entry{}
	e.By(identity.Engine)
	if e.Client != "engine" || e.Tenant != "" || e.GID != nil {
		t.Errorf("%+v", e)
	}
	var none *Log
	if err := none.Append(e); err != nil {
		t.Error(err)
	}
}

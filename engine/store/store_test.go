package store

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/identity"
)

func open(t testing.TB, path string) *Journal {
	t.Helper()
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// content is all that a journal has.
func content(t testing.TB, j *Journal) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, k := range j.Keys("") {
		v, err := j.Get(k)
		if err != nil {
			t.Fatal(err)
		}
		out[k] = string(v)
	}
	return out
}

func apply(t testing.TB, j *Journal, ops ...Op) {
	t.Helper()
	if err := j.Apply(false, ops...); err != nil {
		t.Fatal(err)
	}
}

// Random batches, compactions and reopenings leave what a map would have.
func TestJournalIsAMap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "journal")
	j := open(t, path)
	want := map[string]string{}
	for i := range 2000 {
		var ops []Op
		for range rand.IntN(4) {
			k := fmt.Sprintf("k%d", rand.IntN(20))
			if rand.IntN(3) == 0 {
				ops = append(ops, Op{Key: k})
				delete(want, k)
			} else {
				v := strings.Repeat("v", rand.IntN(50)) + fmt.Sprint(i)
				ops = append(ops, Op{Key: k, Value: []byte(v)})
				want[k] = v
			}
		}
		if err := j.Apply(rand.IntN(50) == 0, ops...); err != nil {
			t.Fatal(err)
		}
		switch rand.IntN(100) {
		case 0:
			if err := j.Compact(); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			j = open(t, path)
		}
	}
	if got := content(t, j); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if j.Damaged() != 0 {
		t.Error("damaged lines")
	}
}

// A file cut at any byte has a prefix of the batches, each whole, and can be
// written again.
func TestTornAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	j := open(t, path)
	var states []map[string]string
	states = append(states, map[string]string{})
	for i := range 5 {
		apply(t, j, Op{"a", []byte(fmt.Sprint(i))}, Op{"b", []byte(fmt.Sprint(i))}, Op{Key: "c"})
		states = append(states, map[string]string{"a": fmt.Sprint(i), "b": fmt.Sprint(i)})
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) + 1 {
		cut := filepath.Join(dir, "cut")
		if err := os.WriteFile(cut, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j := open(t, cut)
		got := content(t, j)
		if !slices.ContainsFunc(states, func(s map[string]string) bool { return maps.Equal(s, got) }) {
			t.Fatalf("cut at %d: %v", n, got)
		}
		apply(t, j, Op{"new", []byte("1")})
		got["new"] = "1"
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if again := content(t, open(t, cut)); !maps.Equal(again, got) {
			t.Fatalf("cut at %d and written: %v, want %v", n, again, got)
		}
	}
}

// One damaged byte costs one batch at most.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	j := open(t, path)
	for i := range 5 {
		apply(t, j, Op{fmt.Sprintf("a%d", i), []byte("1")}, Op{fmt.Sprintf("b%d", i), []byte("2")})
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x55
		p := filepath.Join(dir, "bad")
		if err := os.WriteFile(p, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		j := open(t, p)
		got := content(t, j)
		// A newline that is damaged joins two lines, of two batches at worst.
		if len(got) < 6 || len(got)%2 != 0 {
			t.Fatalf("byte %d damaged: %v", i, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	for _, op := range []Op{{Key: ""}, {Key: "a b"}, {Key: "a\nb"}, {Key: strings.Repeat("x", 600)}, {"a", []byte("x\ny")}, {"a", make([]byte, MaxValue+1)}} {
		if err := j.Apply(false, Op{"good", []byte("1")}, op); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.10q: %v", op.Key, err)
		}
	}
	if _, err := j.Get("good"); !errdefs.IsNotFound(err) {
		t.Error("half of a batch was applied")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Apply(false, Op{"a", []byte("1")}); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
}

func TestCompactionKeepsTheFileSmall(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	big := bytes.Repeat([]byte("x"), 100_000)
	for range 200 {
		apply(t, j, Op{"k", big})
	}
	if s := j.Size(); s > 3*minGarbage/2 {
		t.Errorf("the file has %d bytes for one value of %d", s, len(big))
	}
}

func FuzzJournal(f *testing.F) {
	j := open(f, filepath.Join(f.TempDir(), "journal"))
	apply(f, j, Op{"c/1", []byte(`{"v":1}`)}, Op{"s/1", []byte(`{}`)})
	apply(f, j, Op{Key: "s/1"})
	seed, err := os.ReadFile(j.path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte("00000000 1 1/1 put a b\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		j := open(t, path)
		before := content(t, j)
		apply(t, j, Op{"fuzz", []byte("1")})
		before["fuzz"] = "1"
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if after := content(t, open(t, path)); !maps.Equal(before, after) {
			t.Errorf("read %v, after a write and a reopening %v", before, after)
		}
	})
}

func TestIndex(t *testing.T) {
	x := NewIndex[int]("container")
	for i, id := range []string{"abc1", "abc2", "def3"} {
		name := fmt.Sprintf("n%d", i)
		if _, err := x.Reserve("", name, id); err != nil {
			t.Fatal(err)
		}
		x.Put("", id, i)
	}
	if owner, err := x.Reserve("", "n0", "other"); !errdefs.IsAlreadyExists(err) || owner != "abc1" {
		t.Error(owner, err)
	}
	for ref, want := range map[string]int{"abc1": 0, "n1": 1, "/n1": 1, "d": 2} {
		if got, err := x.Find(identity.Engine, ref); err != nil || got != want {
			t.Errorf("%s: %d, %v", ref, got, err)
		}
	}
	if _, err := x.Find(identity.Engine, "abc"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	for _, ref := range []string{"", "nope", "n9"} {
		if _, err := x.Find(identity.Engine, ref); !errdefs.IsNotFound(err) || !strings.HasPrefix(err.Error(), "No such container: "+ref) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	x.Unreserve("", "n0", "abc2") // not its name
	if _, err := x.Find(identity.Engine, "n0"); err != nil {
		t.Error(err)
	}
	x.Delete("abc1", "n0")
	if _, err := x.Reserve("", "n0", "new"); err != nil {
		t.Error(err)
	}
}

package container

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

func TestTableIsWhole(t *testing.T) {
	for _, s := range States {
		if len(moves[s]) == 0 {
			t.Errorf("%s is a trap", s)
		}
		if err := container.ValidateContainerState(s.API()); err != nil {
			t.Errorf("%s is %s for the API: %v", s, s.API(), err)
		}
	}
	for s, ms := range moves {
		if !slices.Contains(States, s) {
			t.Errorf("state %q is not listed", s)
		}
		for m, to := range ms {
			if !slices.Contains(Moves, m) || !slices.Contains(States, to) {
				t.Errorf("%s: %q to %q is not listed", s, m, to)
			}
		}
	}
}

// Whatever happens to a container: it is in one state, only the table moves it,
// what is alive cannot be removed, and it can always be got rid of.
func TestMovesAreLegal(t *testing.T) {
	for range 2000 {
		st := Status{State: Created}
		for range 50 {
			m := Moves[rand.IntN(len(Moves))]
			before := st.State
			err := st.Move(m)
			want, legal := moves[before][m]
			switch {
			case legal && (err != nil || st.State != want):
				t.Fatalf("%s, %s: %s, %v", before, m, st.State, err)
			case !legal && (!errdefs.IsFailedPrecondition(err) || st.State != before):
				t.Fatalf("%s, %s: %s, %v", before, m, st.State, err)
			}
			if legal && m == Remove && (before.Alive() || before == Starting) {
				t.Fatalf("a container that is %s was removed", before)
			}
		}
		if !reaches(st.State, Removing) {
			t.Fatalf("a container that is %s can never be removed", st.State)
		}
	}
}

func reaches(from, to State) bool {
	seen := map[State]bool{}
	todo := []State{from}
	for len(todo) > 0 {
		s := todo[0]
		todo = todo[1:]
		if s == to {
			return true
		}
		if seen[s] {
			continue
		}
		seen[s] = true
		for _, n := range moves[s] {
			todo = append(todo, n)
		}
	}
	return false
}

func TestDecode(t *testing.T) {
	b, err := json.Marshal(Record{V: Version, ID: "x", Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	var r Record
	if err := Decode(b, &r); err != nil || r.ID != "x" || r.Name != "n" {
		t.Error(r, err)
	}
	for in, is := range map[string]func(error) bool{
		`{"v":99}`:          errdefs.IsFailedPrecondition,
		`{}`:                errdefs.IsFailedPrecondition,
		`{"v":1`:            errdefs.IsDataLoss,
		`[]`:                errdefs.IsDataLoss,
		`{"v":1,"state":7}`: errdefs.IsDataLoss,
	} {
		if err := Decode([]byte(in), &Status{}); !is(err) {
			t.Errorf("%s: %v", in, err)
		}
	}
	for v := 1; v < Version; v++ {
		if migrations[v] == nil {
			t.Errorf("there is no migration from version %d", v)
		}
	}
}

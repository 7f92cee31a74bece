//go:build linux

package server

import (
	"math"
	"os"
	"reflect"
	"testing"

	"github.com/caisson-engine/caisson/platform_linux/keeper/wire"
	"github.com/caisson-engine/caisson/platform_linux/pack"
)

func TestJournal(t *testing.T) {
	for text, want := range map[string]map[string]*entry{
		"":                       {},
		"S 5 100 a\nS 6 101 b\n": {"a": {key: "a", pid: 5, start: 100, pidfd: -1}, "b": {key: "b", pid: 6, start: 101, pidfd: -1}},
		"S 5 100 a\nE 256 0 77 a\n": {"a": {key: "a", pid: 5, start: 100, pidfd: -1,
			exit: &wire.Process{Key: "a", PID: 5, Start: 100, Exited: true, Status: 256, At: 77}}},
		"S 5 100 a\nE 0 1 77 a\n": {"a": {key: "a", pid: 5, start: 100, pidfd: -1,
			exit: &wire.Process{Key: "a", PID: 5, Start: 100, Exited: true, Unknown: true, At: 77}}},
		"S 5 100 a\nD a\n":            {},
		"S 5 100 a\nD a\nS 7 102 a\n": {"a": {key: "a", pid: 7, start: 102, pidfd: -1}},
		"S 5 100 a\nS 6 10":           {"a": {key: "a", pid: 5, start: 100, pidfd: -1}}, // cut short
		"E 1 0 1 x\nD y\nZ\n\n S":     {},
		"S -1 100 a\nS 0 1 b\n":       {},
	} {
		if got := parseJournal([]byte(text)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v", text, got)
		}
	}
	e := &entry{key: "k/x", pid: 9, start: math.MaxUint64, exit: &wire.Process{Key: "k/x", PID: 9, Start: math.MaxUint64, Exited: true, Status: 9, At: -1}}
	got := parseJournal(endedLine(bornLine(nil, e), e.exit))["k/x"]
	if got == nil || *got.exit != *e.exit {
		t.Errorf("what was written reads as %+v", got)
	}
}

func TestParseStart(t *testing.T) {
	self, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	own, err := parseStart(self)
	if err != nil || own == 0 {
		t.Errorf("our own: %d, %v", own, err)
	}
	const fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20\n"
	for text, want := range map[string]uint64{
		"1 (x) " + fields:         4711,
		"1 (a) b) (c) " + fields:  4711, // a name may look like anything
		"1 (\n) 2 ) x) " + fields: 4711,
		"":                        0,
		"1 (x) S 1":               0,
		"1 (x":                    0,
	} {
		if got, _ := parseStart([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// FuzzHandle throws packets at a keeper that has nothing to lose.
func FuzzHandle(f *testing.F) {
	for kind, m := range map[wire.Kind]pack.Message{
		wire.KindHello: &wire.Hello{Version: wire.Version}, wire.KindSpawn: &wire.Spawn{Key: "k", Joins: []uint64{1}},
		wire.KindDrop: &wire.Drop{Key: "k"}, wire.KindFetch: &wire.Fetch{From: 7}, wire.KindHold: &wire.File{Key: "k", Name: "n"},
		wire.KindAdopt: &wire.Process{Key: "k", PID: 1}, wire.KindUnregister: &wire.Engine{Dir: "/x"}, wire.KindRegister: &wire.Engine{Dir: "/x", Argv: []string{"/x"}},
	} {
		f.Add(wire.Encode(kind, m))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) == 0 {
			return
		}
		s := &server{entries: map[string]*entry{}, pidfds: map[int]*entry{}, engines: map[string]*engine{}, guarded: map[int]*engine{}, clients: map[int]*client{}}
		s.journal.fd = -1
		var fds []int
		// No descriptors, so nothing can be made or kept; a reply goes nowhere.
		s.handle(&client{fd: -1}, wire.Kind(packet[0]), packet[1:], &fds)
		if len(s.entries)+len(s.engines) != 0 {
			t.Errorf("something was kept: %v %v", s.entries, s.engines)
		}
	})
}

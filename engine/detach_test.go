package engine

import (
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParseDetachKeys(t *testing.T) {
	for in, want := range map[string][]byte{
		"": {16, 17}, "ctrl-p,ctrl-q": {16, 17}, "a": {'a'}, "ctrl-@,x": {0, 'x'}, "ctrl-[": {27}, "CTRL-a,ctrl-_": {1, 31}, "D,E,t": []byte("DEt"),
	} {
		if got, err := parseDetachKeys(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-pq"} {
		if _, err := parseDetachKeys(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// However a client's input is cut into pieces, what is not the keys goes on.
func TestEscape(t *testing.T) {
	keys := []byte{16, 17}
	for in, want := range map[string]struct {
		out      string
		detached bool
	}{
		"abc": {"abc", false}, "a\x10b": {"a\x10b", false}, "a\x10\x11b": {"a", true}, "\x10\x10\x11": {"\x10", true},
		"\x11\x10": {"\x11", false}, "\x10": {"", false}, "x\x10\x10y": {"x\x10\x10y", false},
	} {
		for cut := range len(in) + 1 {
			e := &escape{keys: keys}
			out, detached := e.filter([]byte(in[:cut]))
			if !detached {
				var more []byte
				more, detached = e.filter([]byte(in[cut:]))
				out = append(out, more...)
			}
			if string(out) != want.out || detached != want.detached {
				t.Errorf("%q cut at %d: %q, %v", in, cut, out, detached)
			}
		}
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]signal{
		"9": {9, "SIGKILL"}, "kill": {9, "SIGKILL"}, "SIGTERM": {15, "SIGTERM"}, "iot": {6, "SIGABRT"}, "RTMIN+3": {37, "SIGRTMIN+3"},
		"sigrtmax-1": {63, "SIGRTMIN+29"}, "34": {34, "SIGRTMIN"}, "64": {64, "SIGRTMIN+30"}, "RTMIN": {34, "SIGRTMIN"},
	} {
		if got, err := parseSignal(in); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0", "-1", "65", "32", "NOPE", "RTMIN+31", "RTMAX-31", "RTMIN+", "RTMIN+-1", "999999999999999999999"} {
		if got, err := parseSignal(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

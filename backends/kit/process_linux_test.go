package kit

import (
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]syscall.Signal{
		"SIGTERM": 15, "SIGKILL": 9, "SIGRTMIN": 34, "SIGRTMIN+3": 37, "SIGRTMAX": 64, "SIGRTMAX-14": 50,
	} {
		if got, err := ParseSignal(name); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", name, got, err, want)
		}
	}
	for _, name := range []string{"", "TERM", "15", "SIGNONSENSE", "SIGRTMIN+31", "SIGRTMIN-1", "SIGRTMAX+1", "SIGRTMIN3", "SIGRTMIN+x"} {
		if got, err := ParseSignal(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %d, %v", name, got, err)
		}
	}
}

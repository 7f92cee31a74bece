package engine

import (
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParsePS(t *testing.T) {
	out := "UID PID PPID CMD\nroot 7 1 sh -c sleep 9\nroot 8 1 other\nshort\n"
	top, err := parsePS(out, []int64{7})
	if err != nil {
		t.Fatal(err)
	}
	if want := [][]string{{"root", "7", "1", "sh -c sleep 9"}}; !reflect.DeepEqual(top.Processes, want) {
		t.Errorf("got %v, want %v", top.Processes, want)
	}
	if _, err := parsePS("UID CMD\nroot sh\n", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without a PID column: %v", err)
	}
}

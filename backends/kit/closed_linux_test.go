package kit

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Whoever moves bytes may have waited while the output was closed. The numbers of
// its descriptors are another's by then, whose bytes it must not take: they would
// be lost, and a read of a pipe that blocks would never return.
func TestClosedOutputTakesNothing(t *testing.T) {
	o, err := newPumps(t).Open(OutputConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	number := o.streams[0].src.fd
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[1])
	if ends[0] != number {
		if err := unix.Dup3(ends[0], number, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		unix.Close(ends[0])
	}
	defer unix.Close(number)
	if _, err := unix.Write(ends[1], []byte("another's")); err != nil {
		t.Fatal(err)
	}
	o.work.Lock()
	moved, err := o.pass()
	o.work.Unlock()
	if moved || err != nil {
		t.Errorf("pass after Close: moved %v, error %v", moved, err)
	}
	if n, err := unix.IoctlGetInt(number, unix.TIOCINQ); err != nil || n != len("another's") {
		t.Errorf("the other pipe has %d bytes left, error %v", n, err)
	}
}

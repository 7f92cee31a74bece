package tty

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// DefaultDetachKeys detach from a container unless told otherwise.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ErrDetached is what reading returns once the detach keys were typed.
var ErrDetached = errors.New("read escape sequence")

// ParseKeys turns comma separated keys, each a character or ctrl-X, into the
// bytes that a terminal sends for them.
func ParseKeys(s string) ([]byte, error) {
	var out []byte
	for k := range strings.SplitSeq(s, ",") {
		name, isCtrl := strings.CutPrefix(k, "ctrl-")
		switch {
		case len(name) != 1:
			return nil, fmt.Errorf("invalid detach keys (%s): %q is neither a character nor ctrl-X", s, k)
		case !isCtrl:
			out = append(out, k[0])
		case strings.Contains("@[\\]^_", name):
			out = append(out, name[0]-'@')
		case 'a' <= name[0] && name[0] <= 'z':
			out = append(out, name[0]-'a'+1)
		default:
			return nil, fmt.Errorf("invalid detach keys (%s): ctrl-%s is not a key", s, name)
		}
	}
	return out, nil
}

// Detacher passes a terminal's input through until keys are typed.
type Detacher struct {
	r       io.Reader
	keys    []byte
	matched int    // how many of keys were just typed
	held    []byte // typed, not part of keys after all, not delivered yet
}

// NewDetacher reads from r until keys are typed.
func NewDetacher(r io.Reader, keys []byte) *Detacher { return &Detacher{r: r, keys: keys} }

// Read returns ErrDetached when the keys were typed; what was typed before them
// has been delivered by then. Keys that only begin the sequence are held back
// until it is clear that they do not complete it.
func (d *Detacher) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if len(d.held) > 0 {
			n := copy(p, d.held)
			d.held = d.held[n:]
			return n, nil
		}
		if d.matched == len(d.keys) && d.matched > 0 {
			return 0, ErrDetached
		}
		buf := make([]byte, len(p))
		n, err := d.r.Read(buf)
		for _, b := range buf[:n] {
			if d.feed(b) {
				break // what follows the keys is not for the container
			}
		}
		if err != nil && (d.matched < len(d.keys) || d.matched == 0) {
			d.held = append(d.held, d.keys[:d.matched]...)
			d.matched = 0
			if len(d.held) > 0 {
				n := copy(p, d.held)
				d.held = d.held[n:]
				return n, nil
			}
			return 0, err
		}
	}
}

// feed takes one byte and says whether it completed the keys.
func (d *Detacher) feed(b byte) bool {
	typed := append(append([]byte{}, d.keys[:d.matched]...), b)
	// The longest end of what was typed that begins the keys stays held back.
	n := 0
	for !bytes.HasPrefix(d.keys, typed[n:]) {
		n++
	}
	d.held = append(d.held, typed[:n]...)
	d.matched = len(typed) - n
	return d.matched == len(d.keys) && d.matched > 0
}

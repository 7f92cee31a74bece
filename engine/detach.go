package engine

import (
	"strings"
)

// defaultDetachKeys are ctrl-p ctrl-q.
var defaultDetachKeys = []byte{16, 17}

// parseDetachKeys reads a client's choice, such as "ctrl-p,ctrl-q" or "ctrl-@,x":
// single characters or ctrl- with one of a-z @ [ \ ] ^ _. "" is the default.
func parseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return defaultDetachKeys, nil
	}
	var out []byte
	for key := range strings.SplitSeq(s, ",") {
		if len(key) == 1 {
			out = append(out, key[0])
			continue
		}
		c, ok := strings.CutPrefix(strings.ToLower(key), "ctrl-")
		switch {
		case !ok || len(c) != 1:
			return nil, invalid("Invalid detach keys (%s) provided", s)
		case c[0] >= 'a' && c[0] <= 'z':
			out = append(out, c[0]-'a'+1)
		case c[0] == '@':
			out = append(out, 0)
		case c[0] >= '[' && c[0] <= '_':
			out = append(out, c[0]-'['+27)
		default:
			return nil, invalid("Invalid detach keys (%s) provided", s)
		}
	}
	return out, nil
}

// escape looks for the detach keys in a stream of input.
type escape struct {
	keys  []byte
	found int // keys seen at the end of what came so far, and held back
}

// filter returns what of in goes on to the process, and whether the keys were
// complete; what follows them is dropped.
func (e *escape) filter(in []byte) (out []byte, detached bool) {
	out = make([]byte, 0, len(in)+e.found)
	for _, b := range in {
		for {
			if b == e.keys[e.found] {
				if e.found++; e.found == len(e.keys) {
					return out, true
				}
				break
			}
			if e.found == 0 {
				out = append(out, b)
				break
			}
			// What was held back was input after all; b may begin anew.
			out = append(out, e.keys[:e.found]...)
			e.found = 0
		}
	}
	return out, false
}

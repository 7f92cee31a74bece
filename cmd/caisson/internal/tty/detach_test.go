package tty

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestParseKeys(t *testing.T) {
	for in, want := range map[string]string{
		"ctrl-p,ctrl-q": "\x10\x11", "a": "a", "ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_": "\x00\x1b\x1c\x1d\x1e\x1f",
		"ctrl-a,x": "\x01x", "": "error", "ctrl-": "error", "ctrl-1": "error", "ctrl-A": "error", "ab": "error", "a,": "error",
	} {
		got, err := ParseKeys(in)
		if err != nil {
			got = []byte("error")
		}
		if string(got) != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestDetacher(t *testing.T) {
	for _, x := range []struct {
		keys, in, out string
		detached      bool
	}{
		{"\x10\x11", "hello", "hello", false},
		{"\x10\x11", "a\x10\x11b", "a", true},
		{"\x10\x11", "a\x10b\x10\x11", "a\x10b", true},
		{"\x10\x11", "\x10\x10\x11", "\x10", true},
		{"\x10\x11", "a\x10", "a\x10", false},
		{"aab", "aaab", "a", true},
		{"aab", "aaxaab", "aax", true},
		{"abab", "ababab", "", true},
		{"abac", "ababac", "ab", true},
		{"x", "x", "", true},
		{"", "any\x10\x11", "any\x10\x11", false},
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "data with error": iotest.DataErrReader,
		} {
			var out bytes.Buffer
			_, err := io.Copy(&out, NewDetacher(wrap(strings.NewReader(x.in)), []byte(x.keys)))
			if out.String() != x.out || errors.Is(err, ErrDetached) != x.detached {
				t.Errorf("%s, keys %q, typed %q: %q %v, want %q", name, x.keys, x.in, out.String(), err, x.out)
			}
		}
	}
}

// Everything before the first occurrence of the keys arrives, however it is cut.
func FuzzDetacher(f *testing.F) {
	f.Add([]byte("\x10\x11"), []byte("a\x10\x10\x11b"), 3)
	f.Fuzz(func(t *testing.T, keys, in []byte, size int) {
		if len(keys) == 0 || size < 1 || size > 1000 {
			return
		}
		want, _, found := bytes.Cut(in, keys)
		var out bytes.Buffer
		_, err := io.CopyBuffer(struct{ io.Writer }{&out}, struct{ io.Reader }{NewDetacher(bytes.NewReader(in), keys)}, make([]byte, size))
		if !bytes.Equal(out.Bytes(), want) || errors.Is(err, ErrDetached) != found {
			t.Errorf("keys %q, typed %q: %q %v", keys, in, out.Bytes(), err)
		}
	})
}

package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func frame(stream byte, s string) string {
	h := make([]byte, 8)
	h[0] = stream
	binary.BigEndian.PutUint32(h[4:], uint32(len(s)))
	return string(h) + s
}

func TestDemux(t *testing.T) {
	for name, x := range map[string]struct {
		in, out, err string
		fails        func(error) bool
	}{
		"both":            {in: frame(1, "o1") + frame(2, "e") + frame(1, "") + frame(1, "o2"), out: "o1o2", err: "e"},
		"stdin":           {in: frame(0, "x"), out: "x"},
		"nothing":         {},
		"engine's error":  {in: frame(1, "a") + frame(3, "broke"), out: "a", fails: errdefs.IsInternal},
		"not framed":      {in: "plain text, long enough", fails: errdefs.IsDataLoss},
		"absurd size":     {in: "\x01\x00\x00\x00\xff\xff\xff\xff", fails: errdefs.IsDataLoss},
		"short header":    {in: "\x01\x00", fails: func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"short frame":     {in: frame(1, "abc")[:9], out: "a", fails: func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"larger than buf": {in: frame(1, strings.Repeat("x", 100<<10)), out: strings.Repeat("x", 100<<10)},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			err := Demux(&out, &errOut, strings.NewReader(x.in))
			if x.fails == nil && err != nil || x.fails != nil && !x.fails(err) {
				t.Errorf("error %v", err)
			}
			if out.String() != x.out || errOut.String() != x.err {
				t.Errorf("out %.60q, err %q", out.String(), errOut.String())
			}
		})
	}
}

func FuzzDemux(f *testing.F) {
	f.Add([]byte(frame(1, "a") + frame(2, "b")))
	f.Add([]byte("\x03\x00\x00\x00\x00\x00\x00\x01x"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out, errOut bytes.Buffer
		Demux(&out, &errOut, bytes.NewReader(in))
		if out.Len()+errOut.Len() > len(in) {
			t.Errorf("%d bytes became %d", len(in), out.Len()+errOut.Len())
		}
	})
}

package pack

import (
	"math"
	"reflect"
	"testing"
)

type sample struct {
	U  uint64
	U3 uint32
	I  int64
	N  int
	B  bool
	S  string
	D  []byte
	L  []string
	O  *int64
	K  []sample
}

func (s *sample) Visit(c *Coder) {
	c.Uint64(&s.U)
	c.Uint32(&s.U3)
	c.Int64(&s.I)
	c.Int(&s.N)
	c.Bool(&s.B)
	c.String(&s.S)
	c.Bytes(&s.D)
	c.Strings(&s.L)
	Optional(c, &s.O, c.Int64)
	List(c, &s.K, func(k *sample) { k.Visit(c) })
}

func TestRoundTrip(t *testing.T) {
	seven := int64(-7)
	for _, in := range []sample{
		{D: []byte{}},
		{U: math.MaxUint64, U3: math.MaxUint32, I: math.MinInt64, N: -1, B: true, S: "a\x00b", D: []byte{0, 255}, L: []string{"", "x"}, O: &seven,
			K: []sample{{I: math.MaxInt64, D: []byte("d")}, {S: "z", D: []byte{}}}},
	} {
		data := Encode(nil, &in)
		var out sample
		if !Decode(data, &out) {
			t.Fatalf("%+v: refused its own encoding", in)
		}
		if !reflect.DeepEqual(in, out) {
			t.Errorf("got %+v, want %+v", out, in)
		}
		for i := range data {
			if Decode(data[:i], &sample{}) {
				t.Errorf("accepted the first %d of %d bytes", i, len(data))
			}
		}
		if Decode(append(data, 0), &sample{}) {
			t.Error("accepted a trailing byte")
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(nil, &sample{S: "x", K: []sample{{}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s sample
		if !Decode(data, &s) {
			return
		}
		var again sample
		if !Decode(Encode(nil, &s), &again) || !reflect.DeepEqual(s, again) {
			t.Errorf("%+v does not survive a round trip", s)
		}
	})
}

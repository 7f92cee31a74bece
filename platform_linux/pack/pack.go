// Package pack is the encoding of the messages that our own processes on one
// host send each other: caisson-init's instructions and the keeper's packets.
// It exists because encoding/json costs caisson-init a third of its start time.
//
// A message is a struct with one method that visits its fields in order:
//
//	func (m *Spawn) Visit(c *pack.Coder) { c.String(&m.Key); c.Uint64(&m.Flags) }
//
// The same visit writes and reads, so the two cannot disagree. Integers are
// little-endian base-128 varints, strings and lists are preceded by their
// length. There are no field numbers: both sides are built together, and each
// first message carries a version.
//
// Reading is safe against hostile bytes: no length is believed beyond the bytes
// that are there, so that decoding n bytes allocates O(n).
package pack

// Message is what can be encoded.
type Message interface{ Visit(c *Coder) }

// Coder carries out one visit. The zero Coder is not usable; see Encode, Decode.
type Coder struct {
	buf     []byte
	reading bool
	bad     bool
}

// Encode appends m's encoding to buf.
func Encode(buf []byte, m Message) []byte {
	c := Coder{buf: buf}
	m.Visit(&c)
	return c.buf
}

// Decode fills m from data and reports whether data was exactly one well-formed
// message. Byte slices in m alias data; strings do not.
func Decode(data []byte, m Message) bool {
	c := Coder{buf: data, reading: true}
	m.Visit(&c)
	return !c.bad && len(c.buf) == 0
}

// Reading tells a visit which way it goes.
func (c *Coder) Reading() bool { return c.reading }

func (c *Coder) putUvarint(v uint64) {
	for v >= 0x80 {
		c.buf = append(c.buf, byte(v)|0x80)
		v >>= 7
	}
	c.buf = append(c.buf, byte(v))
}

func (c *Coder) uvarint() uint64 {
	var v uint64
	for i := 0; i < len(c.buf) && i < 10; i++ {
		b := c.buf[i]
		if i == 9 && b > 1 {
			break
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			c.buf = c.buf[i+1:]
			return v
		}
	}
	c.fail()
	return 0
}

func (c *Coder) fail() {
	c.bad = true
	c.buf = nil
}

// length writes n, or reads a length that the remaining bytes can hold when
// each element takes at least one byte.
func (c *Coder) length(n int) int {
	if !c.reading {
		c.putUvarint(uint64(n))
		return n
	}
	v := c.uvarint()
	if v > uint64(len(c.buf)) {
		c.fail()
		return 0
	}
	return int(v)
}

// Uint64 visits an unsigned number.
func (c *Coder) Uint64(p *uint64) {
	if c.reading {
		*p = c.uvarint()
	} else {
		c.putUvarint(*p)
	}
}

// Uint32 visits an unsigned number of 32 bits.
func (c *Coder) Uint32(p *uint32) {
	v := uint64(*p)
	c.Uint64(&v)
	if v > 1<<32-1 {
		c.fail()
		v = 0
	}
	*p = uint32(v)
}

// Int64 visits a signed number, zigzag encoded.
func (c *Coder) Int64(p *int64) {
	v := uint64(*p)<<1 ^ uint64(*p>>63)
	c.Uint64(&v)
	*p = int64(v>>1) ^ -int64(v&1)
}

// Int visits a signed number.
func (c *Coder) Int(p *int) {
	v := int64(*p)
	c.Int64(&v)
	*p = int(v)
}

// Bool visits a truth value.
func (c *Coder) Bool(p *bool) {
	var v uint64
	if *p {
		v = 1
	}
	c.Uint64(&v)
	if v > 1 {
		c.fail()
	}
	*p = v == 1
}

// String visits a string.
func (c *Coder) String(p *string) {
	n := c.length(len(*p))
	if c.reading {
		*p = string(c.buf[:n])
		c.buf = c.buf[n:]
		return
	}
	c.buf = append(c.buf, *p...)
}

// Bytes visits bytes.
func (c *Coder) Bytes(p *[]byte) {
	n := c.length(len(*p))
	if c.reading {
		*p = c.buf[:n:n]
		c.buf = c.buf[n:]
		return
	}
	c.buf = append(c.buf, *p...)
}

// Strings visits a list of strings.
func (c *Coder) Strings(p *[]string) { List(c, p, c.String) }

// List visits a list, each element by visit.
func List[T any](c *Coder, p *[]T, visit func(*T)) {
	n := c.length(len(*p))
	if c.reading {
		*p = nil
		for i := 0; i < n && !c.bad; i++ {
			var v T
			visit(&v)
			*p = append(*p, v)
		}
		return
	}
	for i := range *p {
		visit(&(*p)[i])
	}
}

// Optional visits a value that may be absent.
func Optional[T any](c *Coder, p **T, visit func(*T)) {
	has := *p != nil
	c.Bool(&has)
	if !has {
		*p = nil
		return
	}
	if c.reading {
		*p = new(T)
	}
	visit(*p)
}

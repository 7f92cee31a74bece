package logs

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"
	"unicode/utf8"
)

// codec is the format of one kind of log file: records one after another, each
// of which tells where it ends, from both sides.
type codec interface {
	// attrs encodes what is the same in all records of a log.
	attrs(map[string]string) []byte
	// append adds a record to dst.
	append(dst []byte, r Record, attrs []byte) []byte
	// next reads the record at the start of b and how many bytes it takes; 0 if
	// b ends before it does. errDamaged says that these bytes are no record and
	// are to be skipped.
	next(b []byte) (Record, int, error)
	// back finds the start of the record that ends at the end of b, -1 if b
	// starts in the middle of it.
	back(b []byte) int
}

var errDamaged = errors.New("damaged log record")

// maxRecord bounds an encoded record: a full line whose every byte is escaped,
// and attributes. A file that seems to have a longer one is damaged there.
const maxRecord = 1 << 20

// jsonCodec is Docker's json-file format.
type jsonCodec struct{}

func (jsonCodec) attrs(m map[string]string) []byte {
	if len(m) == 0 {
		return nil
	}
	b := []byte(`,"attrs":{`)
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendJSONString(b, []byte(k))
		b = append(b, ':')
		b = appendJSONString(b, []byte(m[k]))
	}
	return append(b, '}')
}

func (jsonCodec) append(dst []byte, r Record, attrs []byte) []byte {
	dst = append(dst, `{"log":`...)
	dst = appendJSONString(dst, r.Line)
	dst = append(dst, `,"stream":"`...)
	dst = append(dst, r.Stream...)
	dst = append(dst, '"')
	dst = append(dst, attrs...)
	dst = append(dst, `,"time":"`...)
	dst = appendTime(dst, r.Time)
	return append(dst, '"', '}', '\n')
}

func (jsonCodec) next(b []byte) (Record, int, error) {
	n := bytes.IndexByte(b, '\n') + 1
	if n == 0 {
		if len(b) > maxRecord {
			return Record{}, len(b), errDamaged
		}
		return Record{}, 0, nil
	}
	var j struct {
		Log    string            `json:"log"`
		Stream string            `json:"stream"`
		Attrs  map[string]string `json:"attrs"`
		Time   time.Time         `json:"time"`
	}
	if n > maxRecord || json.Unmarshal(b[:n], &j) != nil || j.Stream != Stdout && j.Stream != Stderr {
		return Record{}, n, errDamaged
	}
	return Record{Time: j.Time, Stream: j.Stream, Line: []byte(j.Log), Attrs: j.Attrs}, n, nil
}

func (jsonCodec) back(b []byte) int {
	if len(b) == 0 {
		return -1
	}
	if i := bytes.LastIndexByte(b[:len(b)-1], '\n'); i >= 0 {
		return i + 1
	}
	return -1
}

// plain marks the bytes that stand for themselves in a JSON string as Docker
// writes it, which escapes what HTML would read as markup.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

const hexDigits = "0123456789abcdef"

func appendJSONString(dst, s []byte) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		size := 1
		var r rune
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRune(s[i:])
			if (r != utf8.RuneError || size > 1) && r != '\u2028' && r != '\u2029' {
				i += size
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c < utf8.RuneSelf:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		case r == utf8.RuneError:
			dst = append(dst, `\ufffd`...)
		default:
			dst = append(dst, `\u202`...)
			dst = append(dst, hexDigits[r&15])
		}
		i += size
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// appendTime writes RFC 3339 in UTC with all nine digits, so that the size of a
// record does not depend on when it was written. It runs once per line of output
// and is several times as fast as time.Time.AppendFormat.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	dst = append(dst, "0000-00-00T00:00:00.000000000Z"...)
	b := dst[len(dst)-30:]
	for _, f := range [...]struct{ end, value int }{
		{4, year}, {7, int(month)}, {10, day}, {13, hour}, {16, minute}, {19, second}, {29, t.Nanosecond()},
	} {
		for i, v := f.end-1, f.value; v > 0 && i >= 0; i-- {
			b[i] = byte('0' + v%10)
			v /= 10
		}
	}
	return dst
}

// localCodec frames records by their size, in front and behind:
//
//	size(4) time(8, Unix nanoseconds) stream(1: 1 stdout, 2 stderr) attrs(2+n) line size(4)
//
// Numbers are big endian; size counts what lies between the two.
type localCodec struct{}

const (
	localFrame = 8         // both sizes
	localFixed = 8 + 1 + 2 // time, stream, length of attrs
)

var localStreams = []string{1: Stdout, 2: Stderr}

func (localCodec) attrs(m map[string]string) []byte {
	if len(m) == 0 {
		return nil
	}
	b, err := json.Marshal(m)
	if err != nil || len(b) > 1<<15 {
		return nil
	}
	return b
}

func (localCodec) append(dst []byte, r Record, attrs []byte) []byte {
	size := uint32(localFixed + len(attrs) + len(r.Line))
	dst = binary.BigEndian.AppendUint32(dst, size)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Time.UnixNano()))
	dst = append(dst, byte(slices.Index(localStreams, r.Stream)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(attrs)))
	dst = append(dst, attrs...)
	dst = append(dst, r.Line...)
	return binary.BigEndian.AppendUint32(dst, size)
}

func (localCodec) next(b []byte) (Record, int, error) {
	if len(b) < 4 {
		return Record{}, 0, nil
	}
	size := int(binary.BigEndian.Uint32(b))
	if size < localFixed || size > maxRecord-localFrame {
		return Record{}, len(b), errDamaged
	}
	if len(b) < size+localFrame {
		return Record{}, 0, nil
	}
	body := b[4 : 4+size]
	stream, n := int(body[8]), int(binary.BigEndian.Uint16(body[9:]))
	if int(binary.BigEndian.Uint32(b[4+size:])) != size || stream == 0 || stream >= len(localStreams) || localFixed+n > size {
		return Record{}, len(b), errDamaged
	}
	r := Record{
		Time:   time.Unix(0, int64(binary.BigEndian.Uint64(body))).UTC(),
		Stream: localStreams[stream],
		Line:   bytes.Clone(body[localFixed+n:]),
	}
	if n > 0 && json.Unmarshal(body[localFixed:localFixed+n], &r.Attrs) != nil {
		return Record{}, size + localFrame, errDamaged
	}
	return r, size + localFrame, nil
}

func (localCodec) back(b []byte) int {
	if len(b) < localFrame {
		return -1
	}
	size := int(binary.BigEndian.Uint32(b[len(b)-4:]))
	start := len(b) - size - localFrame
	if size < localFixed || start < 0 {
		return -1
	}
	return start
}

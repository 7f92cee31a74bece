package logs

import (
	"bytes"
	"errors"
	"io"
)

// scanner reads records from a file that may grow, and whose incomplete last
// record may be cut off and written anew by a writer that was restarted after a
// kill. So bytes of an incomplete record are never put together from two reads,
// and what one read gave counts only if a second one gives the same: the kernel
// copies page by page, so a read that meets the cut returns the start of the old
// record and the end of the new one.
type scanner struct {
	codec codec
	read  func(p []byte, off int64) (int, error)
	pos   int64 // start of the next record
	// sequential says that the file cannot change and is best read in order.
	sequential bool
	// skipDamaged passes over bytes that are no record; their end counts as read.
	skipDamaged bool

	buf        []byte
	start, end int // of what is unread in buf; buf[start] lies at pos
	again      []byte
}

const scanBuffer = 64 << 10

// next returns the next record, or io.EOF if there is no complete one yet.
func (s *scanner) next() (Record, error) {
	for {
		if s.end > s.start {
			r, n, err := s.codec.next(s.buf[s.start:s.end])
			if err != nil && s.skipDamaged {
				s.advance(n)
				continue
			}
			if err != nil {
				return Record{}, err
			}
			if n > 0 {
				s.advance(n)
				return r, nil
			}
		}
		if err := s.fill(); err != nil {
			s.start, s.end = 0, 0
			return Record{}, err
		}
	}
}

func (s *scanner) advance(n int) {
	s.start += n
	s.pos += int64(n)
}

// fill gets more of the record at pos than there is.
func (s *scanner) fill() error {
	have := s.end - s.start
	keep := 0
	if s.sequential {
		copy(s.buf, s.buf[s.start:s.end])
		keep = have
	}
	if have == len(s.buf) {
		s.buf = append(s.buf[:keep:keep], make([]byte, max(scanBuffer, 2*have)-keep)...)
	}
	n, err := s.read(s.buf[keep:], s.pos+int64(keep))
	if !s.sequential {
		n, err = s.settle(n, err)
	}
	s.start, s.end = 0, keep+n
	if s.end > have {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.EOF
	}
	return err
}

// settle reads the n bytes at pos until they stay the same. They differ only
// around the moment at which a torn record is replaced.
func (s *scanner) settle(n int, err error) (int, error) {
	for n > 0 {
		if cap(s.again) < n {
			s.again = make([]byte, len(s.buf))
		}
		m, failed := s.read(s.again[:n], s.pos)
		if m == n && bytes.Equal(s.again[:n], s.buf[:n]) {
			return n, err
		}
		n, err = copy(s.buf, s.again[:m]), failed
	}
	return n, err
}

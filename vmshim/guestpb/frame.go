package guestpb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A frame is what travels over SharePort, in either direction: the number of the
// share that it concerns, the length of the message, both 4 bytes with the least
// first, and the message, which is of the FUSE protocol.

// FrameHeader is a frame's beginning, in bytes.
const FrameHeader = 8

// MaxWrite is the most data in one message; MaxMessage is the most bytes of one.
const (
	MaxWrite   = 128 << 10
	MaxMessage = MaxWrite + 8<<10
)

// minMessage is a FUSE message's own header.
const minMessage = 16

// ErrFrame says that the other side does not keep to the protocol.
var ErrFrame = errors.New("invalid frame")

// PutFrameHeader writes one.
func PutFrameHeader(b []byte, share uint32, length int) {
	binary.LittleEndian.PutUint32(b, share)
	binary.LittleEndian.PutUint32(b[4:], uint32(length))
}

// ReadFrame reads one frame; the message is in buf, which holds MaxMessage bytes.
func ReadFrame(r io.Reader, buf []byte) (share uint32, message []byte, err error) {
	if _, err := io.ReadFull(r, buf[:FrameHeader]); err != nil {
		return 0, nil, err
	}
	share, n := binary.LittleEndian.Uint32(buf), binary.LittleEndian.Uint32(buf[4:])
	if n < minMessage || int64(n) > int64(min(len(buf), MaxMessage)) {
		return 0, nil, fmt.Errorf("%w of %d bytes", ErrFrame, n)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return share, buf[:n], nil
}

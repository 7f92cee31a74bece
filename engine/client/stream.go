package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
)

// Messages is a stream that reports progress.
type Messages struct {
	body io.ReadCloser
	dec  *json.Decoder
}

func (c *Client) messages(ctx context.Context, r Request) (*Messages, error) {
	resp, err := c.Do(ctx, r) //nolint:bodyclose // Close does
	if err != nil {
		return nil, err
	}
	return &Messages{body: resp.Body, dec: json.NewDecoder(resp.Body)}, nil
}

// Next returns the next message, io.EOF at the end. A message that reports a
// failure is returned as an error.
func (m *Messages) Next() (Message, error) {
	var msg Message
	if err := m.dec.Decode(&msg); err != nil {
		return msg, err
	}
	switch {
	case msg.Error != nil:
		return msg, &StreamError{Code: msg.Error.Code, Message: msg.Error.Message}
	case msg.ErrorOld != "":
		return msg, &StreamError{Message: msg.ErrorOld}
	}
	return msg, nil
}

// Close ends the stream; what the engine does for it, it gives up.
func (m *Messages) Close() { m.body.Close() }

// StreamError is a failure that the engine reported after it had begun to
// answer.
type StreamError struct {
	Code    int // an HTTP status, or 0
	Message string
}

func (e *StreamError) Error() string { return e.Message }

// Unwrap is the error's kind.
func (e *StreamError) Unwrap() error { return (&Error{Status: e.Code}).Unwrap() }

const (
	frameHeader = 8
	// maxFrame bounds one frame. Docker's engines send at most 64 KiB; what is
	// larger than this is not framed output.
	maxFrame = 64 << 20
)

// Demux copies framed output to stdout and stderr until it ends. A frame that
// the engine marks as its own error is returned as one.
func Demux(stdout, stderr io.Writer, r io.Reader) error {
	br, ok := r.(interface {
		io.Reader
		Discard(int) (int, error)
	})
	if !ok {
		br = bufio.NewReaderSize(r, 32<<10)
	}
	var head [frameHeader]byte
	buf := make([]byte, 32<<10)
	for {
		if _, err := io.ReadFull(br, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		size := int64(binary.BigEndian.Uint32(head[4:]))
		if head[0] > 3 || head[1]|head[2]|head[3] != 0 || size > maxFrame {
			return fmt.Errorf("unrecognized stream header %x: the engine sent output that is not framed: %w", head, errdefs.ErrDataLoss)
		}
		w := stdout
		switch head[0] {
		case 2:
			w = stderr
		case 3:
			var b strings.Builder
			if _, err := io.CopyN(&b, br, size); err != nil {
				return err
			}
			return fmt.Errorf("error from daemon in stream: %s: %w", b.String(), errdefs.ErrInternal)
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(br, size), buf)
		if err != nil {
			return err
		}
		if n < size {
			return io.ErrUnexpectedEOF
		}
	}
}

package share

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/caisson-engine/caisson/vmshim/guestpb"
)

const (
	// maxRequests is how many requests are served at the same time.
	maxRequests = 32
	// maxWaiting is how many requests may wait for locks.
	maxWaiting = 256
)

// Operations of the FUSE protocol that are not served like the others.
const (
	opForget      = 2
	opInit        = 26
	opSetLkw      = 33
	opInterrupt   = 36
	opBatchForget = 42
)

// Server serves the shares of one machine.
type Server struct {
	mu     sync.Mutex
	shares map[uint32]*fuse.ProtocolServer
}

// NewServer has no shares yet.
func NewServer() *Server { return &Server{shares: map[uint32]*fuse.ProtocolServer{}} }

// Add serves the file or directory that fd names, of which it becomes the owner. The
// process's working directory must be its own /proc/self/fd.
func (s *Server) Add(id uint32, fd int) error {
	fs, err := newFilesystem(fd)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shares[id] != nil {
		fs.table.close()
		return fmt.Errorf("there is a share %d", id)
	}
	s.shares[id] = fuse.NewProtocolServer(fs, &fuse.MountOptions{
		MaxWrite: guestpb.MaxWrite, MaxBackground: maxRequests, EnableLocks: true, EnableSymlinkCaching: true,
		ExtraCapabilities: fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC,
		Logger:            log.New(io.Discard, "", 0), // all it could say is what the guest made it say
		PanicHandler:      func(any) fuse.Status { return fuse.EIO },
	})
	return nil
}

func (s *Server) share(id uint32) *fuse.ProtocolServer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shares[id]
}

// buffer is a request and its answer, with room for the frame's header before it.
type buffer struct {
	in  [guestpb.MaxMessage]byte
	out [guestpb.FrameHeader + guestpb.MaxMessage]byte
}

var buffers = sync.Pool{New: func() any { return &buffer{} }}

// Serve answers what comes from a machine until it ends, which is no error, or does
// not keep to the protocol.
func (s *Server) Serve(port io.ReadWriter) error {
	r := bufio.NewReaderSize(port, 64<<10)
	var writing sync.Mutex
	answer := func(id uint32, b *buffer, n int) {
		guestpb.PutFrameHeader(b.out[:], id, n)
		writing.Lock()
		defer writing.Unlock()
		_, _ = port.Write(b.out[:guestpb.FrameHeader+n]) // a machine that is gone is seen by who reads
	}
	places, waiting := make(chan struct{}, maxRequests), make(chan struct{}, maxWaiting)
	for {
		b := buffers.Get().(*buffer)
		id, message, err := guestpb.ReadFrame(r, b.in[:])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(message) < requestHeader || binary.LittleEndian.Uint32(message) != uint32(len(message)) {
			return fmt.Errorf("%w: a request of %d bytes says something else", guestpb.ErrFrame, len(message))
		}
		share := s.share(id)
		if share == nil {
			return fmt.Errorf("%w: there is no share %d", guestpb.ErrFrame, id)
		}
		serve := func() {
			defer buffers.Put(b)
			n := respond(share, message, b.out[guestpb.FrameHeader:])
			if n == 0 && wantsAnswer(message) {
				n = refuse(message, b.out[guestpb.FrameHeader:], fuse.EIO)
			}
			if n > 0 {
				answer(id, b, n)
			}
		}
		in := places
		switch operation(message) {
		case opForget, opBatchForget, opInterrupt, opInit:
			serve()
			continue
		case opSetLkw:
			in = waiting
			select {
			case in <- struct{}{}:
			default:
				answer(id, b, refuse(message, b.out[guestpb.FrameHeader:], fuse.Status(syscall.ENOLCK)))
				continue
			}
		default:
			in <- struct{}{}
		}
		go func() {
			defer func() { <-in }()
			serve()
		}()
	}
}

// respond has the library answer a request; 0 if there is no answer, or none that it
// knows. Not all that it makes of what a guest's kernel would never send is an error.
func respond(share *fuse.ProtocolServer, message, out []byte) (n int) {
	defer func() {
		if recover() != nil {
			n = 0
		}
	}()
	n, _ = share.HandleRequest([][]byte{message}, [][]byte{out})
	return n
}

// requestHeader and answerHeader are the least that there is of each.
const (
	requestHeader = 40
	answerHeader  = 16
)

func operation(message []byte) uint32 { return binary.LittleEndian.Uint32(message[4:]) }

func wantsAnswer(message []byte) bool {
	switch operation(message) {
	case opForget, opBatchForget, opInterrupt:
		return false
	}
	return true
}

// refuse writes the answer to a request that is not served.
func refuse(message, out []byte, s fuse.Status) int {
	binary.LittleEndian.PutUint32(out, answerHeader)
	binary.LittleEndian.PutUint32(out[4:], uint32(-int32(s)))
	copy(out[8:answerHeader], message[8:16])
	return answerHeader
}

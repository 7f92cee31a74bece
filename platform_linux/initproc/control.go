//go:build linux

package initproc

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/pack"
)

// ControlFD and SelfFD are the descriptors that caisson-init is started with
// besides 0 to 2: its end of the control socket, and its own sealed file.
const (
	ControlFD = 3
	SelfFD    = 4
)

// Frame types, from caisson-init to the runtime. A frame is one byte of type,
// four of length (little-endian), and the payload.
const (
	FrameReady   = 'R' // blocked at the gate; no payload
	FrameConsole = 'C' // carries the terminal's master; no payload
	FrameWarning = 'W' // a sentence
	FrameError   = 'E' // set-up failed: a Failure
	FrameExec    = 'X' // the program cannot be executed: a Failure
	FrameChild   = 'F' // from the keeper's forked child before caisson-init ran: step and errno, 4 bytes each
)

// ChildSteps names what a keeper's forked child does, by the step that
// FrameChild tells.
var ChildSteps = [...]string{
	"wait for the user namespace", "join the cgroups", "enter the namespaces",
	"become root of the user namespace", "connect the streams", "execute caisson-init",
}

// MaxFrame bounds a frame's payload in bytes.
const MaxFrame = 16 << 10

// Gate is the byte that opens the start gate.
const Gate = 'S'

// FrameHeader is a frame's size without payload.
const FrameHeader = 5

// Kind of a Failure.
const (
	KindOther = iota
	KindNoCommand
	KindNotExecutable
	KindInvalid // the instructions ask for what cannot be
)

// Failure says why caisson-init gave up.
type Failure struct {
	Kind uint64
	Text string
}

// Visit encodes or decodes f.
func (f *Failure) Visit(c *pack.Coder) {
	c.Uint64(&f.Kind)
	c.String(&f.Text)
}

// AppendFrame appends a frame to buf.
func AppendFrame(buf []byte, kind byte, payload []byte) []byte {
	if len(payload) > MaxFrame {
		payload = payload[:MaxFrame]
	}
	buf = append(buf, kind)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(payload)))
	return append(buf, payload...)
}

// AppendInstructions appends in as the first thing to send to caisson-init:
// its length in four bytes (little-endian), the number of descriptors that come
// with the length in one byte, and the encoding.
func AppendInstructions(buf []byte, in *Instructions, fds int) []byte {
	at := len(buf)
	buf = append(buf, 0, 0, 0, 0, byte(fds))
	buf = pack.Encode(buf, in)
	binary.LittleEndian.PutUint32(buf[at:], uint32(len(buf)-at-FrameHeader))
	return buf
}

// control is caisson-init's end of the socket.
type control int

func (c control) send(kind byte, payload []byte, rights ...int) error {
	var oob []byte
	if len(rights) > 0 {
		oob = unix.UnixRights(rights...)
	}
	return unix.Sendmsg(int(c), AppendFrame(nil, kind, payload), oob, nil, unix.MSG_NOSIGNAL)
}

func (c control) fail(kind byte, f Failure) {
	// Nobody is left to tell if this fails.
	_ = c.send(kind, pack.Encode(nil, &f))
}

func (c control) warn(text string) { _ = c.send(FrameWarning, []byte(text)) }

// receive is step 1. The bytes come from our own runtime, but are bounded and
// checked all the same: they were made from what clients and images say.
func (c control) receive() (*Instructions, []int, error) {
	var head [FrameHeader]byte
	oob := make([]byte, unix.CmsgSpace(4*MaxRights))
	n, oobn, _, _, err := unix.Recvmsg(int(c), head[:], oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_WAITALL)
	if err != nil {
		return nil, nil, err
	}
	if n != len(head) {
		return nil, nil, syscall.EPIPE
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size > MaxInstructions {
		return nil, nil, syscall.EMSGSIZE
	}
	var fds []int
	if oobn > 0 {
		if fds, err = parseRights(oob[:oobn]); err != nil {
			return nil, nil, err
		}
	}
	if len(fds) != int(head[4]) {
		return nil, nil, syscall.EPROTO
	}
	data := make([]byte, size)
	for got := 0; got < len(data); {
		n, err := syscall.Read(int(c), data[got:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if n == 0 {
			return nil, nil, syscall.EPIPE
		}
		got += n
	}
	in := new(Instructions)
	if !pack.Decode(data, in) {
		return nil, nil, syscall.EBADMSG
	}
	if in.Version != Version {
		return nil, nil, syscall.EPROTONOSUPPORT
	}
	return in, fds, nil
}

// MaxRights is how many descriptors the kernel carries in one message.
const MaxRights = 253

func parseRights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		more, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		fds = append(fds, more...)
	}
	return fds, nil
}

// waitGate blocks until the start gate opens. It answers false if the runtime
// is gone: nobody will ever start this process, so it must end.
func (c control) waitGate() bool {
	var b [1]byte
	for {
		n, err := syscall.Read(int(c), b[:])
		if err == syscall.EINTR {
			continue
		}
		return err == nil && n == 1 && b[0] == Gate
	}
}

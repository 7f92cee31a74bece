package host

import (
	"encoding/json"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// The control socket is how the backend gives a machine what only descriptors can
// carry. It is a pair, made for one shim; a backend that starts anew has lost it,
// and then no disk can be added to this machine any more.
//
// Each request is one packet of JSON with at most one descriptor, each reply one
// packet with at most two. The first packet is a reply to no request: stage 0
// tells the monitor's pid, or why there is none.

// request is what the backend may ask.
type request struct {
	Op   string `json:"op"` // "disk" with a file; "save"
	Slot int    `json:"slot,omitempty"`
}

// reply answers it.
type reply struct {
	Error string `json:"error,omitempty"`
	PID   int    `json:"pid,omitempty"`
	Key   string `json:"key,omitempty"` // of a template, whose files come along
}

const maxPacket = 16 << 10

// control is one end of the socket.
type control struct{ c *net.UnixConn }

func openControl() (*control, error) {
	f := inherited(ControlFD, "control")
	// The descriptor itself is kept for stage 1.
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &control{c.(*net.UnixConn)}, nil
}

func (c *control) send(v any, files []*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.c.WriteMsgUnix(b, rights, nil)
	return err
}

func (c *control) reply(r reply, files []*os.File) error { return c.send(r, files) }

// receive reads a packet into v, and returns its files.
func (c *control) receive(v any, maxFiles int) (files []*os.File, err error) {
	buf, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := c.c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return files, fmt.Errorf("control socket: a packet was too long")
	}
	if n == 0 {
		return files, net.ErrClosed
	}
	return files, json.Unmarshal(buf[:n], v)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

//go:build linux

package resolver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/network/dns"
)

// request is what the engine asks. Put and gate may come with two descriptors: a
// UDP socket and a listening TCP socket.
type request struct {
	Op      string    // put, drop, gate, ungate, list
	Host    *dns.Host `json:",omitempty"` // put
	ID      string    `json:",omitempty"` // drop: a container; gate, ungate: a network
	Sockets bool      `json:",omitempty"` // two descriptors come along
}

// reply answers a request.
type reply struct {
	Error string `json:",omitempty"`
	State        // list
}

// State is what the server has.
type State struct {
	Known  []string `json:",omitempty"` // containers
	Served []string `json:",omitempty"` // those with sockets
	Gates  []string `json:",omitempty"` // networks
}

// maxPacket bounds a message: a socket's usual buffer takes it whole.
const maxPacket = 128 << 10

// send writes one message.
func send(c *net.UnixConn, v any, fds ...int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxPacket {
		return fmt.Errorf("a message of %d bytes: %w", len(b), errdefs.ErrOutOfRange)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, oob, nil)
	return err
}

// receive reads one message and what came along.
func receive(c *net.UnixConn, v any) ([]*os.File, error) {
	b, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(2*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	files, err := filesOf(oob[:oobn])
	switch {
	case err != nil:
	case n == 0:
		err = net.ErrClosed
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("a message is cut off")
	default:
		err = json.Unmarshal(b[:n], v)
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

func filesOf(oob []byte) ([]*os.File, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "socket"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

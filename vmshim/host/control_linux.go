package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/vmshim/vmm"
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
	Op    string `json:"op"` // "disk" and "hold" with a file; "clear", "save"; "port"; "share" with a file, of a file server
	Slot  int    `json:"slot,omitempty"`
	Port  string `json:"port,omitempty"`
	Share uint32 `json:"share,omitempty"`
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

// Control is the backend's end of a control socket.
type Control struct{ c *control }

// NewControl makes a pair; the file is for the shim, as ControlFD.
func NewControl() (*Control, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer ours.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	return &Control{&control{c.(*net.UnixConn)}}, theirs, nil
}

// Launched waits for the monitor's process, and Running for the machine; each is
// called once, in this order, before any other.
func (c *Control) Launched() (pid int, err error) { return c.await() }

// Running waits until the machine runs.
func (c *Control) Running() error {
	_, err := c.await()
	return err
}

func (c *Control) await() (int, error) {
	var r reply
	files, err := c.c.receive(&r, 2)
	closeAll(files)
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	return r.PID, err
}

// SetDisk puts an image into a slot.
func (c *Control) SetDisk(slot int, image *os.File) error {
	if err := c.c.send(request{Op: "disk", Slot: slot}, []*os.File{image}); err != nil {
		return err
	}
	_, err := c.await()
	return err
}

// ClearDisk takes a slot's image out again.
func (c *Control) ClearDisk(slot int) error {
	if err := c.c.send(request{Op: "clear", Slot: slot}, nil); err != nil {
		return err
	}
	_, err := c.await()
	return err
}

// Hold has the shim keep a file open as long as it lives.
func (c *Control) Hold(f *os.File) error {
	if err := c.c.send(request{Op: "hold"}, []*os.File{f}); err != nil {
		return err
	}
	_, err := c.await()
	return err
}

// Save ends the machine and returns what it becomes.
func (c *Control) Save() (*vmm.Template, error) {
	if err := c.c.send(request{Op: "save"}, nil); err != nil {
		return nil, err
	}
	var r reply
	files, err := c.c.receive(&r, 2)
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err == nil && len(files) != 2 {
		err = errors.New("the shim gave no template")
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return &vmm.Template{Key: r.Key, Memory: files[0], State: files[1]}, nil
}

// Port takes a port's end over. It can be taken once.
func (c *Control) Port(name string) (*os.File, error) {
	if err := c.c.send(request{Op: "port", Port: name}, nil); err != nil {
		return nil, err
	}
	var r reply
	files, err := c.c.receive(&r, 1)
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err == nil && len(files) != 1 {
		err = errors.New("the shim gave no port")
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files[0], nil
}

// Share gives a file server the file or directory that f names, as a share of that
// number.
func (c *Control) Share(id uint32, f *os.File) error {
	if err := c.c.send(request{Op: "share", Share: id}, []*os.File{f}); err != nil {
		return err
	}
	_, err := c.await()
	return err
}

// Close gives the socket back. The machine goes on.
func (c *Control) Close() error { return c.c.c.Close() }

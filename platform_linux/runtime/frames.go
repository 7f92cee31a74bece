//go:build linux

package runtime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/platform_linux/initproc"
	"github.com/caisson-engine/caisson/platform_linux/pack"
)

// ctlName and consoleName are the names under which the keeper holds our end of
// the control socket, until Start, and the terminal.
const (
	ctlName     = "ctl"
	consoleName = "console"
)

// frame is one message of caisson-init.
type frame struct {
	kind    byte
	text    string
	failure initproc.Failure
	console int // -1 for none; the caller's to close
}

// readFrame reads one frame, or io.EOF at the end. What it reads may come from a
// process that a container took over, so it is bounded.
func readFrame(ctl *os.File) (frame, error) {
	f := frame{console: -1}
	raw, err := ctl.SyscallConn()
	if err != nil {
		return f, err
	}
	var head [initproc.FrameHeader]byte
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, rerr = unix.Recvmsg(int(fd), head[:], oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(rerr, syscall.EAGAIN) && !errors.Is(rerr, syscall.EINTR)
	})
	switch {
	case err != nil:
		return f, err
	case errors.Is(rerr, syscall.ECONNRESET), rerr == nil && n == 0:
		// A reset: it died with something of ours unread.
		return f, io.EOF
	case rerr != nil:
		return f, rerr
	}
	f.console = receivedFD(oob[:oobn])
	if n < len(head) {
		if _, err := io.ReadFull(ctl, head[n:]); err != nil {
			return f, fmt.Errorf("read from caisson-init: %w", err)
		}
	}
	f.kind = head[0]
	size := binary.LittleEndian.Uint32(head[1:])
	if size > initproc.MaxFrame {
		return f, fmt.Errorf("caisson-init sent %d bytes at once: %w", size, errdefs.ErrInternal)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(ctl, payload); err != nil {
		return f, fmt.Errorf("read from caisson-init: %w", err)
	}
	switch f.kind {
	case initproc.FrameWarning:
		f.text = string(payload)
	case initproc.FrameError, initproc.FrameExec:
		if !pack.Decode(payload, &f.failure) {
			return f, fmt.Errorf("caisson-init sent what cannot be read: %w", errdefs.ErrInternal)
		}
	case initproc.FrameChild:
		if size == 8 && int(payload[0]) < len(initproc.ChildSteps) {
			errno := syscall.Errno(binary.LittleEndian.Uint32(payload[4:]))
			f.failure.Text = initproc.ChildSteps[payload[0]] + ": " + errno.Error()
		}
	}
	return f, nil
}

func execFailure(f initproc.Failure) error {
	kinds := map[uint64]FailureKind{initproc.KindNoCommand: FailureNoCommand, initproc.KindNotExecutable: FailureNotExecutable}
	return &ExecFailure{Kind: kinds[f.Kind], Message: f.Text}
}

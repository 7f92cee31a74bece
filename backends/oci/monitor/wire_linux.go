package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// One message is one packet: JSON, and descriptors beside it in the order that
// the JSON names them.
const (
	maxPacket = 64 << 10
	maxFiles  = 16
)

// Verbs.
const (
	verbRun   = "run"   // Command with stdin, stdout, stderr and perhaps a cgroup
	verbHold  = "hold"  // Key, Names and as many files
	verbDrop  = "drop"  // Key, and Names or all of it
	verbExit  = "exit"  // Key: answered once the process has ended
	verbHello = "hello" // answered by a monitor that will not end before the client leaves
	verbList  = "list"  // answered by an item for each key and one without a key
)

// FilePidfd is the name under which a process itself is held.
const FilePidfd = "pidfd"

// FileConsole is the name under which a process's terminal is held.
const FileConsole = "console"

type request struct {
	ID      uint64   `json:"id"`
	Verb    string   `json:"verb"`
	Key     string   `json:"key,omitempty"`
	Names   []string `json:"names,omitempty"`
	PID     int      `json:"pid,omitempty"`
	Command *Command `json:"command,omitempty"`
}

// Command is one call of a runtime that leaves a process behind.
type Command struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"`
	// PIDFile is where the runtime writes the number of the process.
	PIDFile string `json:"pid_file"`
	// Last are the final arguments. With Console, --console-socket and the path
	// of a socket come before them, and the runtime sends a terminal there.
	Last       []string `json:"last,omitempty"`
	Console    bool     `json:"console,omitempty"`
	Rows, Cols uint32
	// Cgroup says that a fourth file is the version 2 cgroup to start in.
	Cgroup bool `json:"cgroup,omitempty"`
}

// Exit is how a process ended.
type Exit struct {
	Status  uint32 `json:"status"` // as wait(2) has it
	Unknown bool   `json:"unknown,omitempty"`
	At      int64  `json:"at"` // Unix nanoseconds
}

// Code is the exit code as shells have it.
func (e *Exit) Code() int32 {
	switch w := unix.WaitStatus(e.Status); {
	case e.Unknown:
		return 255
	case w.Signaled():
		return 128 + int32(w.Signal())
	default:
		return int32(w.ExitStatus())
	}
}

type reply struct {
	ID    uint64   `json:"id"`
	Error string   `json:"error,omitempty"`
	Gone  bool     `json:"gone,omitempty"` // the error is NotFound
	Key   string   `json:"key,omitempty"`
	Names []string `json:"names,omitempty"` // of the files beside it
	PID   int      `json:"pid,omitempty"`
	Exit  *Exit    `json:"exit,omitempty"`
	// Status is how the command ended.
	Status int `json:"status,omitempty"`
}

func (r *reply) err() error {
	switch {
	case r.Error == "":
		return nil
	case r.Gone:
		return fmt.Errorf("%s: %w", r.Error, errdefs.ErrNotFound)
	}
	return errors.New(r.Error)
}

// send writes one packet. The files stay the caller's.
func send(c *net.UnixConn, m any, files []*os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxPacket || len(files) > maxFiles {
		return fmt.Errorf("message of %d bytes and %d files is too large: %w", len(b), len(files), errdefs.ErrInvalidArgument)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			// Fd would make the file blocking.
			if fds[i], err = number(f); err != nil {
				return err
			}
		}
		oob = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, oob, nil)
	return err
}

// number is a file's descriptor, which is valid while the file is open.
func number(f *os.File) (fd int, err error) {
	c, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	err = c.Control(func(n uintptr) { fd = int(n) })
	return fd, err
}

// receive reads one packet. The files are the caller's.
func receive(c *net.UnixConn, buf []byte, m any) ([]*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		fds, e := unix.ParseUnixRights(&messages[i])
		err = errors.Join(err, e)
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "held"))
		}
	}
	switch {
	case n == 0 && oobn == 0:
		err = net.ErrClosed
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = fmt.Errorf("message is too large: %w", errdefs.ErrInvalidArgument)
	case err == nil:
		err = json.Unmarshal(buf[:n], m)
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

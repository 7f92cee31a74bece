package kit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/logs"
)

// Output carries what a process writes from its pipes to its log and to the
// clients that are attached, without losing or doubling a byte in the log when
// we are killed.
//
// # The way of a byte
//
//	process → pipe ──splice──▶ spool file ──▶ log
//	                              └─────────▶ attached clients
//
// The process holds both ends of its pipe, so it never meets a broken pipe while
// we are away, and blocks at worst when the pipe is full; somebody who outlives
// us holds it too, so that it is there when the process is not. One splice(2) takes
// bytes out of the pipe and puts them at the end of the spool; a kill can come
// before or after it, not in the middle: the system call consumes exactly what it
// has written. So every byte is in the pipe or in the spool, and in one only.
//
// From the spool, lines are written to the log. Which lines is a function of the
// bytes alone: a record ends at a newline, or after logs.MaxLine bytes. After
// each write the cursor file is overwritten, in one pwrite(2) that a kill cannot
// divide, with {place in the log, place of each stream in its spool}. If we are
// killed after the write to the log and before the one to the cursor, the log
// holds complete records behind the cursor's place and perhaps a torn one. The
// next process cuts off the torn one, reads the others, and moves the place of
// each one's stream over the same bytes that made it: then log and places agree
// again, and nothing is written twice. Complete records are never cut off, so
// whoever follows the log does not notice.
//
// A rotation happens between two cursors: first the cursor behind the last record
// is stored, then the file changes. A new file is recognised by its number, and
// all that is in it is behind the cursor.
//
// The spool is given back to the system as it is used: holes are punched below
// the lowest place, and when everything was used it is cut to nothing. A spool
// that is shorter than a place in the cursor was cut, when all of it was used, so
// the place is 0.
//
// # Clients
//
// An attached client reads the spool at its own speed. The log never waits for
// it. If it falls behind by maxLag the process is made to wait, as it would for
// a slow terminal; if it then takes nothing for stallLimit it is cut off with an
// error.
type Output struct {
	pumps *Pumps
	dir   string

	work sync.Mutex // held by who moves bytes
	mu   sync.Mutex // guards what follows; taken inside work

	streams     [2]*stream // stdout and stderr; no stderr with a terminal
	console     *source    // terminal's master, nil if there is none
	consolePeer int        // its other side
	writer      *logs.Writer
	logCfg      *logs.Config // nil: nothing is logged
	cursor      *os.File
	running     bool // a goroutine moves bytes
	held        bool // it waits for a client
	stall       *time.Timer
	ended       bool // the process is gone and all was moved
	closed      bool
	readers     map[*Reader]struct{}
	failed      string // the last complaint, so that it is not repeated
	lastTime    time.Time
}

// OutputConfig describes the output of one process.
type OutputConfig struct {
	// Dir is a private directory for spools and the cursor. It must survive the
	// backend but need not survive the host.
	Dir string
	// Terminal says that all output comes from a terminal (see SetConsole).
	Terminal bool
	// Log is where the output is logged, nil for nowhere.
	Log *logs.Config
	// Recover takes over what a killed backend left in Dir. Stdout and Stderr
	// are then the pipes that somebody held meanwhile (see Pipes), which stay the
	// caller's; without one its stream starts anew.
	Recover        bool
	Stdout, Stderr *os.File
}

const (
	// maxLag is how far an attached client may be behind, in bytes.
	maxLag = 16 << 20
	// patientLag is the same where clients are waited for (see Pumps.Patient).
	patientLag = 1 << 20
	// stallLimit is how long a client that is that far behind may take nothing.
	stallLimit = 30 * time.Second
	// spliceSize is how much is moved before it is logged, in bytes.
	spliceSize = 256 << 10
	// punchStep is how much of a spool is given back at once, in bytes.
	punchStep = 1 << 20
	// cutSize is from which size a used up spool is cut to nothing, in bytes.
	cutSize = 64 << 10
	// retryPause is how long to wait after the spool's filesystem failed.
	retryPause = 200 * time.Millisecond
)

var streamFiles = [2]string{"stdout", "stderr"}
var streamNames = [2]string{logs.Stdout, logs.Stderr}
var streamTypes = [2]backendpb.AttachOutput_Stream{backendpb.AttachOutput_STDOUT, backendpb.AttachOutput_STDERR}

// Open makes the output of a process that is about to be created, or takes over
// that of one. Nothing is moved before Run.
func (p *Pumps) Open(c OutputConfig) (_ *Output, err error) {
	o := &Output{pumps: p, dir: c.Dir, logCfg: c.Log, readers: map[*Reader]struct{}{}}
	if c.Log != nil {
		if err := logs.Validate(c.Log.Driver, c.Log.Options); err != nil {
			return nil, err
		}
		if c.Log.Driver == logs.None {
			o.logCfg = nil
		}
	}
	defer func() {
		if err != nil {
			_ = o.Close()
		}
	}()
	n := len(streamFiles)
	if c.Terminal {
		n = 1
	}
	for i := range n {
		if o.streams[i], err = o.openStream(i, [2]*os.File{c.Stdout, c.Stderr}[i], c.Recover); err != nil {
			return nil, err
		}
	}
	if c.Recover {
		if err := o.recover(); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// Pipes opens the process's ends of its output, for the runtime to pass on and
// for somebody who outlives us to hold. The caller closes them. With a terminal
// only the first is there, for whoever holds it: on its way from the terminal
// output goes through that pipe.
func (o *Output) Pipes() (stdout, stderr *os.File, err error) {
	var ends [2]*os.File
	for i, s := range o.streams {
		if s == nil {
			continue
		}
		// A second open, so that the process cannot change the flags of ours.
		fd, err := reopen(s.src.fd, 0)
		if err != nil {
			if ends[0] != nil {
				_ = ends[0].Close()
			}
			return nil, nil, fmt.Errorf("output: %w", err)
		}
		ends[i] = os.NewFile(uintptr(fd), streamFiles[i])
	}
	return ends[0], ends[1], nil
}

// SetConsole makes the master side of a terminal the source of all output. The
// file stays the caller's.
func (o *Output) SetConsole(master *os.File) error {
	var dup, peer int
	if err := control(master, func(fd int) (err error) {
		// While nobody has the other side open, a terminal tells epoll all the
		// time that it is hung up; so we have.
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return errno
		}
		peer = int(r)
		if dup, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err != nil {
			_ = unix.Close(peer)
			return err
		}
		return unix.SetNonblock(dup, true)
	}); err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	s, err := o.pumps.add(o, dup)
	if err != nil {
		_ = unix.Close(peer)
		return err
	}
	o.mu.Lock()
	o.console, o.consolePeer = s, peer
	o.mu.Unlock()
	return nil
}

// Run starts to move output.
func (o *Output) Run() { o.start() }

// wake is called when s has something.
func (o *Output) wake(s *source) {
	o.mu.Lock()
	s.armed = false
	o.mu.Unlock()
	o.start()
}

// start makes sure that somebody moves bytes.
func (o *Output) start() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running || o.held || o.closed {
		return
	}
	o.running = true
	go o.run()
}

// run moves bytes until there are none, then has the sources watched again.
func (o *Output) run() {
	for {
		o.work.Lock()
		moved, err := o.pass()
		o.work.Unlock()
		o.mu.Lock()
		switch {
		case o.closed:
			o.running = false
		case err != nil:
			o.complain("output of %s waits: %v", err)
			time.AfterFunc(retryPause, func() {
				o.mu.Lock()
				o.running = false
				o.mu.Unlock()
				o.start()
			})
			o.mu.Unlock()
			return
		case moved && !o.lagging():
			o.mu.Unlock()
			continue
		case moved:
			o.hold()
			o.running = false
		default:
			o.running = false
			o.failed = ""
			o.armAll()
		}
		o.mu.Unlock()
		return
	}
}

func (o *Output) armAll() {
	for _, s := range o.sources() {
		if s.armed {
			continue
		}
		s.armed = true
		if err := o.pumps.arm(s); err != nil {
			s.armed = false
			o.complain("output of %s cannot be watched: %v", err)
		}
	}
}

func (o *Output) sources() []*source {
	var list []*source
	if o.console != nil {
		return append(list, o.console)
	}
	for _, s := range o.streams {
		if s != nil {
			list = append(list, s.src)
		}
	}
	return list
}

// complain logs a failure once until it changes. o.mu is held.
func (o *Output) complain(format string, err error) {
	if text := fmt.Sprintf(format, o.dir, err); text != o.failed {
		o.failed = text
		o.pumps.log.Warn(text)
	}
}

// pass moves what there is once, up to spliceSize per stream, and logs it.
// o.work is held.
func (o *Output) pass() (moved bool, err error) {
	o.mu.Lock()
	closed := o.closed
	o.mu.Unlock()
	if closed {
		// While we waited for work the descriptors were closed; their numbers may
		// be another's by now, whose output we would take.
		return false, nil
	}
	if o.console != nil {
		if moved, err = o.fromConsole(); err != nil {
			return moved, err
		}
	}
	for _, s := range o.streams {
		if s == nil {
			continue
		}
		n, err := s.take()
		moved = moved || n > 0
		if err != nil {
			return moved, err
		}
	}
	if moved {
		o.logLines(false)
		o.trim()
		o.mu.Lock()
		for r := range o.readers {
			r.notify()
		}
		o.mu.Unlock()
	} else if o.writer != nil {
		o.writer.Trim() // an idle process costs no buffer
	}
	return moved, nil
}

// fromConsole moves what the terminal has into the first stream's pipe, from
// where it goes on as any output does.
func (o *Output) fromConsole() (moved bool, err error) {
	pipe := o.streams[0]
	for total := 0; total < spliceSize; {
		n, err := unix.Splice(o.console.fd, nil, pipe.src.fd, nil, spliceSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EIO), err == nil && n == 0:
			return moved, nil // EIO: the terminal was hung up
		case errors.Is(err, unix.EINVAL):
			// Terminals cannot splice before Linux 6.5; there a kill between
			// read and write loses up to 4 KiB.
			var buf [4096]byte
			r, err := unix.Read(o.console.fd, buf[:])
			if err != nil || r <= 0 {
				return moved, nil //nolint:nilerr // nothing there, or hung up
			}
			if _, err := unix.Write(pipe.src.fd, buf[:r]); err != nil {
				return moved, err
			}
			n = int64(r)
		case err != nil:
			return moved, err
		}
		moved = true
		total += int(n)
		if _, err := pipe.take(); err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// Drain is called when the process has ended: it moves all that is left, logs a
// last line without a newline, and ends the clients' streams after the last
// byte. What other processes write into the same pipes later is thrown away.
func (o *Output) Drain() error {
	o.work.Lock()
	defer o.work.Unlock()
	var err error
	// A pipe holds no more than its size, so this ends even if somebody else
	// goes on writing.
	for range 64 {
		var moved bool
		if moved, err = o.pass(); err != nil || !moved {
			break
		}
	}
	o.logLines(true)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	if o.stall != nil {
		o.stall.Stop()
	}
	for r := range o.readers {
		r.notify()
	}
	if o.writer != nil {
		err = errors.Join(err, o.writer.Close())
		o.writer = nil
	}
	return err
}

// Close gives back everything here and leaves Dir for the next process.
// Attached clients read on to the end of what was moved.
func (o *Output) Close() error {
	o.work.Lock()
	defer o.work.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed, o.ended = true, true
	if o.stall != nil {
		o.stall.Stop()
	}
	if o.console != nil {
		o.pumps.remove(o.console)
		_ = unix.Close(o.consolePeer)
	}
	for _, s := range o.streams {
		if s != nil {
			o.pumps.remove(s.src)
		}
	}
	for r := range o.readers {
		r.notify()
	}
	var err error
	if o.writer != nil {
		err = o.writer.Close()
		o.writer = nil
	}
	if o.cursor != nil {
		err = errors.Join(err, o.cursor.Close())
		o.cursor = nil
	}
	o.release()
	return err
}

// release closes the spools once nobody reads them any more. o.mu is held.
func (o *Output) release() {
	if !o.closed || len(o.readers) > 0 {
		return
	}
	for _, s := range o.streams {
		if s != nil && s.spool != nil {
			_ = s.spool.Close()
			s.spool = nil
		}
	}
}

// reopen opens both ends of a pipe anew.
func reopen(fd, flags int) (int, error) {
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	n, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return n, nil
}

var errStalled = fmt.Errorf("the client took no output for %v while %d MiB were waiting: %w", stallLimit, maxLag>>20, errdefs.ErrAborted)

package guest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/vmshim/guestpb"
)

// shares carries FUSE messages between this kernel and the host: package share of the
// host tells the story. It understands none of them.
type shares struct {
	once sync.Once
	port net.Conn
	err  error // why there is no port

	lost chan<- error // takes why the host does not answer any more

	mu      sync.Mutex
	devices map[uint32]*os.File // /dev/fuse, once for each share
}

func newShares(lost chan<- error) *shares {
	return &shares{lost: lost, devices: map[uint32]*os.File{}}
}

// mount mounts a share for a container. Its first answer is not waited for.
func (s *shares) mount(container string, sh *guestpb.Share) (err error) {
	s.once.Do(s.open)
	if s.err != nil {
		return s.err
	}
	target, mode := guestpb.SharePath(container, sh.GetId()), uint32(unix.S_IFDIR)
	if sh.GetFile() {
		mode = unix.S_IFREG
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, nil, 0o600); err != nil {
			return err
		}
	} else if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("shares of the host: /dev/fuse: %w", err)
	}
	flags := uintptr(unix.MS_NODEV)
	if sh.GetReadOnly() {
		flags |= unix.MS_RDONLY
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0,allow_other,default_permissions", fd, mode)
	if err := unix.Mount("host", target, "fuse", flags, options); err != nil {
		unix.Close(fd)
		return fmt.Errorf("share %d of the host: %w", sh.GetId(), err)
	}
	// Only now: one that is not mounted cannot be polled.
	device := os.NewFile(uintptr(fd), "/dev/fuse")
	s.mu.Lock()
	s.devices[sh.GetId()] = device
	s.mu.Unlock()
	go s.ask(sh.GetId(), device)
	if err := neverPoll(target, sh.GetFile()); err != nil {
		return fmt.Errorf("share %d of the host: %w", sh.GetId(), err)
	}
	return nil
}

// neverPoll makes the kernel learn that the host does not poll files. Until then it
// asks the host whenever a file is given to epoll, as this process does with each that
// it opens, by a system call during which none of its goroutines may run: not even
// the one that carries the question.
func neverPoll(target string, file bool) error {
	if !file {
		target = filepath.Join(target, ".go-fuse-epoll-hack") // the server's library has it for this
	}
	fd, err := unix.Open(target, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err
}

// open connects to the host. A machine whose files are gone is of no use: it ends.
func (s *shares) open() {
	if s.port, s.err = openPort(guestpb.SharePort); s.err != nil {
		return
	}
	go func() {
		err := s.answer()
		s.mu.Lock()
		for _, device := range s.devices {
			_ = device.Close() // who waits for a file gets an error
		}
		s.mu.Unlock()
		s.lost <- fmt.Errorf("the server of the host's files: %w", err)
	}()
}

// ask carries a share's requests to the host until it is unmounted.
func (s *shares) ask(id uint32, device *os.File) {
	defer s.forget(id)
	buf := make([]byte, guestpb.FrameHeader+guestpb.MaxMessage)
	for {
		n, err := device.Read(buf[guestpb.FrameHeader:])
		switch {
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR):
			continue // whoever asked has given up
		case err != nil:
			return
		}
		guestpb.PutFrameHeader(buf, id, n)
		if _, err := s.port.Write(buf[:guestpb.FrameHeader+n]); err != nil {
			return
		}
	}
}

func (s *shares) forget(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.devices[id]; f != nil {
		_ = f.Close()
		delete(s.devices, id)
	}
}

// answer carries the host's answers to the kernel.
func (s *shares) answer() error {
	r := bufio.NewReaderSize(s.port, 64<<10)
	buf := make([]byte, guestpb.MaxMessage)
	for {
		id, message, err := guestpb.ReadFrame(r, buf)
		if err != nil {
			return err
		}
		s.mu.Lock()
		device := s.devices[id]
		s.mu.Unlock()
		if device != nil {
			_, _ = device.Write(message) // whoever asked may have given up
		}
	}
}

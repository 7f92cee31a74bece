package share

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/vmshim/guestpb"
	"github.com/caisson-engine/caisson/vmshim/share/sharetest"
)

func TestMain(m *testing.M) {
	sharetest.Child()
	// As in the server's process; see Add.
	log.SetOutput(io.Discard)
	unix.Umask(0)
	if err := os.Chdir("/proc/self/fd"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// serve serves dir as share 1 at one end of a connection; the other is a machine's.
func serve(t testing.TB, dir string) net.Conn {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer()
	if err := s.Add(1, fd); err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "port")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	go func() {
		_ = s.Serve(ends[1])
		ends[1].Close()
	}()
	t.Cleanup(func() { ends[0].Close() })
	return ends[0]
}

// mounted mounts a share here, with this kernel as the guest's.
func mounted(t *testing.T, dir string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	at := t.TempDir()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd)
	if err := unix.Mount("host", at, "fuse", unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	conn := serve(t, dir)
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH|unix.MNT_FORCE) })
	go func() {
		buf := make([]byte, guestpb.FrameHeader+guestpb.MaxMessage)
		for {
			n, err := unix.Read(fd, buf[guestpb.FrameHeader:])
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return
			}
			guestpb.PutFrameHeader(buf, 1, n)
			if _, err := conn.Write(buf[:guestpb.FrameHeader+n]); err != nil {
				return
			}
		}
	}()
	go func() {
		buf := make([]byte, guestpb.MaxMessage)
		for {
			_, message, err := guestpb.ReadFrame(conn, buf)
			if err != nil {
				return
			}
			_, _ = unix.Write(fd, message)
		}
	}()
	return at
}

// A share does with files what the directory itself does.
func TestSameAsDirectory(t *testing.T) {
	base := t.TempDir()
	plain, served := filepath.Join(base, "plain"), filepath.Join(base, "served")
	for _, dir := range []string{plain, served} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for dir := base; dir != "/"; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755) // for the other user
	}
	guest := mounted(t, served)
	observe := func(dir string) []string {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		out, err := sharetest.Command(ctx, dir).Output()
		if err != nil {
			_ = unix.Unmount(guest, unix.MNT_DETACH|unix.MNT_FORCE)
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	want, got := observe(plain), observe(guest)
	for i := range want {
		if strings.Contains(want[i], "error: ") {
			t.Errorf("in the directory itself: %s", want[i])
		}
		if got[i] != want[i] {
			t.Errorf("got  %s\nwant %s", got[i], want[i])
		}
	}
}

// request is a FUSE message of a hostile guest.
func request(op uint32, node uint64, body ...any) []byte {
	b := make([]byte, requestHeader)
	binary.LittleEndian.PutUint32(b[4:], op)
	binary.LittleEndian.PutUint64(b[8:], 7)
	binary.LittleEndian.PutUint64(b[16:], node)
	for _, part := range body {
		switch v := part.(type) {
		case uint32:
			b = binary.LittleEndian.AppendUint32(b, v)
		case uint64:
			b = binary.LittleEndian.AppendUint64(b, v)
		case string:
			b = append(append(b, v...), 0)
		}
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	return b
}

// ask sends a message and returns the answer's error, and what follows it.
func ask(t testing.TB, c net.Conn, message []byte) (unix.Errno, []byte) {
	t.Helper()
	b := make([]byte, guestpb.FrameHeader, guestpb.FrameHeader+len(message))
	guestpb.PutFrameHeader(b, 1, len(message))
	if _, err := c.Write(append(b, message...)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, guestpb.MaxMessage)
	_, answer, err := guestpb.ReadFrame(c, buf)
	if err != nil {
		t.Fatal(err)
	}
	return unix.Errno(-int32(binary.LittleEndian.Uint32(answer[4:]))), answer[answerHeader:]
}

// hello is the first message of the protocol.
func hello(t testing.TB, c net.Conn) {
	t.Helper()
	if errno, _ := ask(t, c, request(opInit, 0, uint32(7), uint32(36), uint32(1<<17), ^uint32(0), uint32(0), string(make([]byte, 43)))); errno != 0 {
		t.Fatal(errno)
	}
}

const (
	opLookup = 1
	opMknod  = 8
	opMkdir  = 9
	opUnlink = 10
	opRename = 12
	opOpen   = 14
	opRead   = 15
)

// A guest gets nowhere with what its kernel would never say.
func TestHostileRequests(t *testing.T) {
	outside := t.TempDir()
	dir := filepath.Join(outside, "shared")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"secret": "no", "shared/own": "yes"} {
		if err := os.WriteFile(filepath.Join(outside, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := serve(t, dir)
	hello(t, c)
	look := func(name string) uint64 {
		errno, body := ask(t, c, request(opLookup, rootID, name))
		if errno != 0 {
			t.Fatalf("%s: %v", name, errno)
		}
		return binary.LittleEndian.Uint64(body)
	}
	own, link, fifo := look("own"), look("link"), look("fifo")
	for what, x := range map[string]struct {
		message []byte
		want    unix.Errno
	}{
		"lookup of ..":             {request(opLookup, rootID, ".."), unix.EINVAL},
		"lookup of a path":         {request(opLookup, rootID, "../secret"), unix.EINVAL},
		"lookup of nothing":        {request(opLookup, rootID, ""), unix.EINVAL},
		"lookup below a link":      {request(opLookup, link, "x"), unix.ENOTDIR},
		"unlink of a path":         {request(opUnlink, rootID, "../secret"), unix.EINVAL},
		"rename to a path":         {request(opRename, rootID, uint64(rootID), "own", "../mine"), unix.EINVAL},
		"directory elsewhere":      {request(opMkdir, rootID, uint32(0o755), uint32(0), "../mine"), unix.EINVAL},
		"open of a link":           {request(opOpen, link, uint32(unix.O_RDWR), uint32(0)), unix.ENXIO},
		"open of a FIFO":           {request(opOpen, fifo, uint32(unix.O_RDONLY), uint32(0)), unix.ENXIO},
		"a device":                 {request(opMknod, rootID, uint32(unix.S_IFBLK|0o666), uint32(0x801), uint32(0), uint32(0), "disk"), unix.EPERM},
		"a device without a type":  {request(opMknod, rootID, uint32(0o666), uint32(0x801), uint32(0), uint32(0), "disk"), unix.EPERM},
		"a node that is not there": {request(opLookup, 4711, "x"), unix.ESTALE},
		"a handle that is not":     {request(opRead, own, uint64(4711), uint64(0), uint32(10), uint32(0), uint64(0), uint32(0), uint32(0)), unix.EBADF},
		"a read of 4 GiB":          {request(opRead, own, uint64(4711), uint64(0), ^uint32(0), uint32(0), uint64(0), uint32(0), uint32(0)), unix.EIO},
		"an unknown operation":     {request(4000, rootID), unix.ENOSYS},
		"too short":                {request(opRead, own), unix.EIO},
	} {
		if errno, _ := ask(t, c, x.message); errno != x.want {
			t.Errorf("%s: %v, want %v", what, errno, x.want)
		}
	}
	if _, err := os.Lstat(filepath.Join(outside, "mine")); err == nil {
		t.Error("something was made outside of the share")
	}
	// What was taken back too often is gone, but for the root.
	for _, node := range []uint64{own, rootID} {
		b := request(opForget, node, ^uint64(0))
		frame := make([]byte, guestpb.FrameHeader)
		guestpb.PutFrameHeader(frame, 1, len(b))
		if _, err := c.Write(append(frame, b...)); err != nil {
			t.Fatal(err)
		}
	}
	if errno, _ := ask(t, c, request(opOpen, own, uint32(0), uint32(0))); errno != unix.ESTALE {
		t.Errorf("open of a forgotten file: %v", errno)
	}
	if again := look("own"); again == own {
		t.Error("a node's number was used again")
	}
}

// Who does not keep to the frames is not heard any more.
func TestHostileFrames(t *testing.T) {
	for name, frame := range map[string][]byte{
		"too long":         {1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
		"too short":        {1, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4},
		"no such share":    append([]byte{9, 0, 0, 0, 40, 0, 0, 0}, request(opLookup, 1)...),
		"another length":   append([]byte{1, 0, 0, 0, 40, 0, 0, 0}, make([]byte, 40)...),
		"none of a header": append([]byte{1, 0, 0, 0, 20, 0, 0, 0}, make([]byte, 20)...),
	} {
		c := serve(t, t.TempDir())
		if _, err := c.Write(frame); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}

// FuzzServe: whatever a guest sends, the server lives or hangs up, and nothing
// outside of the share changes.
func FuzzServe(f *testing.F) {
	for op := range uint32(53) {
		f.Add(request(op, rootID, uint64(2), uint64(0), uint32(4), uint32(0), "a", "b"))
		f.Add(request(op, 2, "user.x", "value"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		outside := t.TempDir()
		dir := filepath.Join(outside, "shared")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "a"), []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
		c := serve(t, dir)
		hello(t, c)
		ask(t, c, request(opLookup, rootID, "a"))
		if len(b) >= requestHeader && len(b) <= guestpb.MaxMessage {
			binary.LittleEndian.PutUint32(b, uint32(len(b)))
			if op := binary.LittleEndian.Uint32(b[4:]); op != opForget && op != opBatchForget && op != opInterrupt && op != 41 {
				ask(t, c, b)
			}
		}
		if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
			t.Errorf("outside of the share: %v, %v", entries, err)
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 16, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, message, err := guestpb.ReadFrame(strings.NewReader(string(b)), make([]byte, guestpb.MaxMessage))
		if err == nil && (len(message) < answerHeader || len(message) > len(b)-guestpb.FrameHeader) {
			t.Errorf("%d bytes of %d", len(message), len(b))
		}
	})
}

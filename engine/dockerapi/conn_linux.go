package dockerapi

import (
	"net"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/identity"
)

// peerIdentity asks the kernel who connected to a unix socket.
func peerIdentity(c *net.UnixConn) (identity.Identity, bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return identity.Identity{}, false
	}
	var cred *unix.Ucred
	var groups []int
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		groups = peerGroups(fd)
	}); err != nil || cerr != nil {
		return identity.Identity{}, false
	}
	return identity.FromPeer(int(cred.Uid), int(cred.Gid), int(cred.Pid), groups...), true
}

// maxGroups bounds the supplementary groups that are asked for; a peer in more
// is taken to be in none beside its first.
const maxGroups = 64

// peerGroups are a peer's supplementary groups.
func peerGroups(fd uintptr) []int {
	var gids [maxGroups]uint32
	size := uint32(unsafe.Sizeof(gids))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&gids)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil
	}
	out := make([]int, size/4)
	for i := range out {
		out[i] = int(gids[i])
	}
	return out
}

// waitHangup returns when the peer of a connection that already sent its end of
// input has also closed its receiving side, or when the connection is closed
// here. It costs no thread: the runtime's poller wakes it. A tcp peer does not
// tell that it closed; there the next write fails instead.
func waitHangup(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
}

// headTime bounds how long awaitRead waits.
const headTime = 100 * time.Millisecond

// awaitRead waits a moment for the peer of a unix socket to read what was
// written. Docker's Python library takes the connection over from a buffering
// HTTP reader and loses what that has read beyond the head of the answer, which
// is the output of a program that is fast.
func awaitRead(c net.Conn) {
	sc, ok := c.(*net.UnixConn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	unread := func() (n int) {
		_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		return n
	}
	for end := time.Now().Add(headTime); unread() > 0 && time.Now().Before(end); {
		time.Sleep(50 * time.Microsecond) // no event tells this
	}
}

// canWaitHangup tells whether waitHangup learns of c's peer.
func canWaitHangup(c net.Conn) bool {
	_, ok := c.(*net.UnixConn)
	return ok
}

//go:build !linux

package dockerapi

import (
	"net"

	"github.com/caisson-engine/caisson/engine/identity"
)

// peerIdentity is not known on this operating system.
func peerIdentity(*net.UnixConn) (identity.Identity, bool) { return identity.Identity{}, false }

// waitHangup has nothing to wait for where canWaitHangup says no.
func waitHangup(net.Conn) {}

// awaitRead does not know what a peer has read.
func awaitRead(net.Conn) {}

// canWaitHangup is false: a peer that half-closed is noticed by the next write.
func canWaitHangup(net.Conn) bool { return false }

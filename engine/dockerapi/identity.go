package dockerapi

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/caisson-engine/caisson/engine/identity"
)

// anonymous is a client of a socket that authenticates nobody: plain tcp, or a
// local socket whose peer the operating system does not tell.
var anonymous = identity.Anonymous

// connContext gives a connection's requests the identity that the connection
// itself proves. A TLS connection proves one only after its handshake, so that
// ServeHTTP sets it with tlsIdentity. A context never stays without identity,
// which would be the engine's own.
func connContext(ctx context.Context, conn net.Conn) context.Context {
	if u, ok := conn.(*net.UnixConn); ok {
		if id, ok := peerIdentity(u); ok {
			return identity.With(ctx, id)
		}
	}
	return identity.With(ctx, anonymous)
}

// tlsIdentity is that of a verified client certificate.
func tlsIdentity(t *tls.ConnectionState) identity.Identity {
	if len(t.VerifiedChains) == 0 || len(t.VerifiedChains[0]) == 0 {
		return anonymous
	}
	s := t.VerifiedChains[0][0].Subject
	return identity.FromCert(s.CommonName, s.String())
}

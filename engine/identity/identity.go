// Package identity says who makes a request. The API layer puts an Identity in
// every request's context, in one place; the engine stamps its Tenant on every
// object it makes, so that policy and tenancy are rules on top, not plumbing.
package identity

import (
	"context"
	"strconv"
)

// Identity is an authenticated client.
type Identity struct {
	// Tenant owns what this client makes. For unix peers "uid:<n>", for TLS
	// clients "cert:<common name>", for the engine itself "engine".
	Tenant string
	UID    int    // unix peer, -1 otherwise
	GID    int    // unix peer, -1 otherwise
	PID    int    // unix peer, 0 otherwise; informative only, pids are reused
	Cert   string // subject of the verified TLS client certificate, "" otherwise
}

// Engine is the engine acting on its own behalf: restarts, auto-removal.
var Engine = Identity{Tenant: "engine", UID: -1, GID: -1}

// FromPeer is the identity of a unix socket's peer.
func FromPeer(uid, gid, pid int) Identity {
	return Identity{Tenant: "uid:" + strconv.Itoa(uid), UID: uid, GID: gid, PID: pid}
}

// FromCert is the identity of a TLS client whose certificate was verified.
func FromCert(commonName, subject string) Identity {
	return Identity{Tenant: "cert:" + commonName, UID: -1, GID: -1, Cert: subject}
}

type key struct{}

// With returns a context that carries id.
func With(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, key{}, id)
}

// From returns the context's identity; a context without one is the engine's own.
func From(ctx context.Context) Identity {
	if id, ok := ctx.Value(key{}).(Identity); ok {
		return id
	}
	return Engine
}

// Package identity says who makes a request. The API layer puts an Identity in
// every request's context, in one place; the engine stamps its tenant on every
// object it makes, so that policy and tenancy are rules on top, not plumbing.
//
// # Whose an object is
//
// Clients of the host owner (admins) share one scope, "", and see every object.
// Any other client is a tenant: what it makes is in the scope of its tenant, and
// what is in another scope does not exist for it. Everything that finds or lists
// objects asks Scope and Sees, and nothing else.
package identity

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Identity is an authenticated client.
type Identity struct {
	// Tenant owns what this client makes. Before the policy was asked, and for
	// admins, it is the name of the client itself: for unix peers "uid:<n>", for
	// TLS clients "cert:<common name>", for the engine itself "engine".
	Tenant string
	// Admin says that this client speaks for the host's owner. Without a policy
	// that knows tenants every client does.
	Admin bool

	UID    int    // unix peer, -1 otherwise
	GID    int    // unix peer, -1 otherwise
	Groups []int  // supplementary groups of a unix peer, where the kernel tells
	PID    int    // unix peer, 0 otherwise; informative only, pids are reused
	Common string // common name of the verified TLS client certificate, "" otherwise
	Cert   string // subject of the verified TLS client certificate, "" otherwise
}

// Engine is the engine acting on its own behalf: restarts, auto-removal.
var Engine = Identity{Tenant: "engine", Admin: true, UID: -1, GID: -1}

// Anonymous is a client of a socket that authenticates nobody.
var Anonymous = Identity{Tenant: "anonymous", UID: -1, GID: -1}

// FromPeer is the identity of a unix socket's peer.
func FromPeer(uid, gid, pid int, groups ...int) Identity {
	return Identity{Tenant: "uid:" + strconv.Itoa(uid), UID: uid, GID: gid, PID: pid, Groups: groups}
}

// FromCert is the identity of a TLS client whose certificate was verified.
func FromCert(commonName, subject string) Identity {
	return Identity{Tenant: "cert:" + commonName, UID: -1, GID: -1, Common: commonName, Cert: subject}
}

// Parse reads a client's name: uid:N, uid:N:GID[,GID…], cert:NAME or anonymous.
func Parse(s string) (id Identity, ok bool) {
	kind, rest, _ := strings.Cut(s, ":")
	switch {
	case s == Anonymous.Tenant:
		return Anonymous, true
	case kind == "cert" && rest != "":
		return FromCert(rest, "CN="+rest), true
	case kind != "uid":
		return id, false
	}
	user, groups, has := strings.Cut(rest, ":")
	uid, err := strconv.Atoi(user)
	if err != nil || uid < 0 {
		return id, false
	}
	id = FromPeer(uid, -1, 0)
	for g := range strings.SplitSeq(groups, ",") {
		gid, err := strconv.Atoi(g)
		switch {
		case !has:
		case err != nil || gid < 0:
			return id, false
		case id.GID < 0:
			id.GID = gid
		default:
			id.Groups = append(id.Groups, gid)
		}
	}
	return id, true
}

// InGroup tells whether a unix peer is in a group, by its first or another.
func (i Identity) InGroup(gid int) bool {
	return i.GID >= 0 && i.GID == gid || slices.Contains(i.Groups, gid)
}

// Name is the client itself, whatever tenant it is of.
func (i Identity) Name() string {
	switch {
	case i.UID >= 0:
		return "uid:" + strconv.Itoa(i.UID)
	case i.Common != "":
		return "cert:" + i.Common
	}
	return i.Tenant
}

// Scope is where what this client makes belongs: "" for the host's owner.
func (i Identity) Scope() string {
	if i.Admin {
		return ""
	}
	return i.Tenant
}

// Sees tells whether an object of a scope exists for this client.
func (i Identity) Sees(scope string) bool {
	return i.Admin || scope != "" && scope == i.Tenant
}

// maxDir bounds a scope's name as a directory.
const maxDir = 120

// Dir is a scope's name as that of a directory, "" if it is too long for one;
// ScopeOf reads it back. It has none of the characters that mean something to a
// mount's options, to Windows or to a shell.
func Dir(scope string) string {
	d := url.QueryEscape(scope)
	if d == "" || d == "." || d == ".." || len(d) > maxDir {
		return ""
	}
	return d
}

// ScopeOf is the scope whose directory is called dir.
func ScopeOf(dir string) (scope string, ok bool) {
	s, err := url.QueryUnescape(dir)
	return s, err == nil && s != "" && Dir(s) == dir
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

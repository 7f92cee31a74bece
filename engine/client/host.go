package client

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// Host is an engine's address.
type Host struct {
	Network string // unix, npipe or tcp
	Address string // path, pipe or host:port
	Prefix  string // tcp only: a path before every request
}

// String is the address in the form that ParseHost reads.
func (h Host) String() string { return h.Network + "://" + h.Address + h.Prefix }

// ParseHost reads unix:///path, npipe:////./pipe/name and tcp://host[:port]. A
// host without a scheme is tcp.
func ParseHost(s string) (Host, error) {
	s = strings.TrimSpace(s)
	network, addr, ok := strings.Cut(s, "://")
	if !ok {
		network, addr = "tcp", s
	}
	if addr == "" {
		return Host{}, fmt.Errorf("invalid host %q: the address is missing; write for example %s: %w", s, DefaultHost, errdefs.ErrInvalidArgument)
	}
	switch network {
	case "unix", "npipe":
		return Host{Network: network, Address: addr}, nil
	case "tcp", "http", "https":
		u, err := url.Parse("tcp://" + addr)
		if err != nil {
			return Host{}, fmt.Errorf("invalid host %q: %w: %w", s, err, errdefs.ErrInvalidArgument)
		}
		host := u.Host
		if u.Port() == "" {
			host = net.JoinHostPort(u.Hostname(), "2375")
		}
		return Host{Network: "tcp", Address: host, Prefix: strings.TrimSuffix(path.Clean("/"+u.Path), "/")}, nil
	case "ssh":
		return Host{}, fmt.Errorf("invalid host %q: ssh is not supported; forward the socket with `ssh -L /tmp/caisson.sock:/run/caisson/caisson.sock HOST` and use unix:///tmp/caisson.sock: %w", s, errdefs.ErrNotImplemented)
	}
	return Host{}, fmt.Errorf("invalid host %q: unknown scheme %q; use unix, npipe or tcp: %w", s, network, errdefs.ErrInvalidArgument)
}

// httpHost is the Host header. A socket has no name; one is required.
func (h Host) httpHost() string {
	if h.Network == "tcp" {
		return h.Address
	}
	return "caisson"
}

func (h Host) dial(ctx context.Context) (net.Conn, error) {
	if h.Network == "npipe" {
		return dialPipe(ctx, h.Address)
	}
	var d net.Dialer
	return d.DialContext(ctx, h.Network, h.Address)
}

// Package plugin speaks the backend contract between processes: Serve is a
// backend's main, Launch is the engine's end. It is the only place that knows
// go-plugin.
//
// # The life of a plugin process
//
// A backend is one process per engine and host. Launch first looks into the
// state directory for one that an earlier engine started; if that process still
// lives, is the one that was recorded (pid and start time), runs the binary that
// is on disk now, and answers Info with the right name, it is taken over.
// Otherwise whatever is left of it is ended and a new one is started. Disconnect
// leaves the process running for the next engine; Kill ends it. Neither touches
// containers: a backend finds them again when it starts.
//
// At most one process per state directory serves, whoever started it: it holds
// a lock there from before it opens the backend until it ends.
//
// # Who may connect
//
// On Unix the socket lies in a directory that only the engine's user may enter.
// On Windows, where go-plugin listens on loopback TCP, both ends must show the
// certificate whose key lies in the state directory; it survives both of them,
// so that a restarted engine can connect. Options.TLS demands the same on Unix.
package plugin

import (
	"context"
	"errors"

	hplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendrpc"
)

// protocolVersion changes when the meaning of a verb changes. What is only
// added is a new field or a new capability.
const protocolVersion = 1

// service is the name under which go-plugin dispenses the one service we have.
const service = "backend"

// handshake only keeps people from starting a plugin by hand; it protects
// nothing.
var handshake = hplugin.HandshakeConfig{
	ProtocolVersion:  protocolVersion,
	MagicCookieKey:   "CAISSON_BACKEND_PLUGIN",
	MagicCookieValue: "v1",
}

// glue joins the generated gRPC code to go-plugin, on the serving side with a
// backend, on the engine's side without.
type glue struct {
	hplugin.NetRPCUnsupportedPlugin
	impl backend.Backend
}

var _ hplugin.GRPCPlugin = (*glue)(nil)

func (g *glue) GRPCServer(_ *hplugin.GRPCBroker, s *grpc.Server) error {
	if g.impl == nil {
		return errors.New("no backend to serve")
	}
	backendrpc.Register(s, g.impl)
	return nil
}

// link is what the engine's side gets of a connection.
type link struct {
	conn   *grpc.ClientConn
	broker *hplugin.GRPCBroker
}

// close closes the connection and leaves the plugin running, unlike go-plugin's
// own Close.
func (l *link) close() {
	_ = l.broker.Close()
	_ = l.conn.Close()
}

func (g *glue) GRPCClient(_ context.Context, broker *hplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return &link{conn: conn, broker: broker}, nil
}

// sets maps each protocol version that this build speaks to its plugins.
func sets(impl backend.Backend) map[int]hplugin.PluginSet {
	return map[int]hplugin.PluginSet{
		protocolVersion: {service: &glue{impl: impl}},
	}
}

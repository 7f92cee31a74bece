package client

import (
	"context"
	"net"

	"github.com/Microsoft/go-winio"
)

// DefaultHost is where an engine listens unless told otherwise.
const DefaultHost = "npipe:////./pipe/caisson_engine"

const startHint = "Start it with `sc start caissond`, or in the foreground with `caissond` in an elevated console.\n" +
	"If it listens elsewhere, name the address with -H, CAISSON_HOST or `caisson context use`."

func dialPipe(ctx context.Context, name string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, name)
}

// permissionHint says who may open the pipe.
func (c *Client) permissionHint() string {
	return "Run the command in an elevated console, or let a group in with caissond --group NAME."
}

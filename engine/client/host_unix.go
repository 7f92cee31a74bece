//go:build !windows

package client

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
)

// DefaultHost is where an engine listens unless told otherwise.
const DefaultHost = "unix:///run/caisson/caisson.sock"

const startHint = "Start it with `sudo systemctl start caissond`, or in the foreground with `sudo caissond`.\n" +
	"If it listens elsewhere, name the address with -H, CAISSON_HOST or `caisson context use`."

func dialPipe(context.Context, string) (net.Conn, error) {
	return nil, fmt.Errorf("npipe:// exists on Windows only; use unix:// or tcp://: %w", errdefs.ErrInvalidArgument)
}

// permissionHint says who may open the socket.
func (c *Client) permissionHint() string {
	group := "caisson"
	if fi, err := os.Stat(c.host.Address); err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			group = strconv.Itoa(int(st.Gid))
			if g, err := user.LookupGroupId(group); err == nil {
				group = g.Name
			}
		}
	}
	if group == "root" || group == "0" {
		return "Only root may use this engine: use sudo, or let a group in by giving the socket to it (caissond --group NAME)."
	}
	return fmt.Sprintf("The socket belongs to the group %q: join it with `sudo usermod -aG %s $USER` and log in again, or use sudo.", group, group)
}

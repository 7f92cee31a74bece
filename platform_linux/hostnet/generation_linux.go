package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// generation reads the number of changes that the namespace's ruleset has seen:
// the cheapest way to learn whether somebody else changed it.
type generation struct{ conn *netlink.Conn }

// dialGeneration fails where the kernel has no nftables.
func dialGeneration() (*generation, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	g := &generation{c}
	if _, err := g.read(); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *generation) close() { _ = g.conn.Close() }

func (g *generation) read() (uint32, error) {
	answers, err := g.conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN),
			Flags: netlink.Request,
		},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) {
			return 0, fmt.Errorf("the kernel has no nftables: %w", errdefs.ErrNotImplemented)
		}
		return 0, err
	}
	for _, a := range answers {
		if len(a.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(a.Data[4:])
		if err != nil {
			return 0, err
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, fmt.Errorf("nftables tells no generation: %w", errdefs.ErrUnavailable)
}

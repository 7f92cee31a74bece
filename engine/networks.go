package engine

import (
	"context"

	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/network"
)

// Networks lists the networks that a client sees: the host owner's, which
// everybody may use, and its own. Of the containers on one it sees its own.
func (e *Engine) Networks(ctx context.Context) []network.Network {
	lister, ok := e.cfg.Network.(interface {
		NetworksFor(tenant string) []network.Network
	})
	if !ok {
		return nil
	}
	who := identity.From(ctx)
	out := []network.Network{}
	for _, n := range lister.NetworksFor(who.Scope()) {
		if n.Tenant != "" && !who.Sees(n.Tenant) {
			continue
		}
		mine := make(map[string]network.Endpoint, len(n.Endpoints))
		for id, ep := range n.Endpoints {
			if _, err := e.ctrs.Find(who, id); err == nil {
				mine[id] = ep
			}
		}
		n.Endpoints = mine
		out = append(out, n)
	}
	return out
}

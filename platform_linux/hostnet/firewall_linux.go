package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/network"
)

// firewall is the nftables table, and what of it should be there: the table can
// be made again at any time. All changes go through one mutex and one socket.
type firewall struct {
	name string // of the table
	log  *slog.Logger

	mu       sync.Mutex
	nft      *nftables.Conn // nil: not connected
	gen      *generation
	lastGen  uint32 // of the whole ruleset, after our last look or change
	problem  error  // why there is no table though there should be, nil if there is
	warnings []string
	off      bool // the host's owner wants none
	bridges  []network.Bridge
	forwards map[frontKey]network.Forward
}

// frontKey is what a forwarded port is known by.
type frontKey struct {
	proto string
	at    netip.AddrPort
}

func keyOf(f network.Forward) frontKey {
	return frontKey{f.Proto, netip.AddrPortFrom(f.HostIP, f.HostPort)}
}

func newFirewall(name string, log *slog.Logger) *firewall {
	w := &firewall{name: name, log: log, forwards: make(map[frontKey]network.Forward)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problem = w.connect()
	return w
}

// connect opens the sockets to the kernel's packet filter, and finds out
// whether there is one.
func (w *firewall) connect() error {
	if w.nft != nil {
		return nil
	}
	gen, err := dialGeneration()
	if err != nil {
		return err
	}
	nft, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(roomForBatches))
	if err != nil {
		gen.close()
		return err
	}
	w.gen, w.nft = gen, nft
	return nil
}

// state tells what is missing, and whether forwarding and masquerading work.
func (w *firewall) state() ([]string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.off {
		return nil, false
	}
	warnings := slices.Clone(w.warnings)
	if w.problem != nil {
		warnings = append(warnings, fmt.Sprintf("nftables cannot be used (%v): containers reach no other network, and published ports are served by a proxy that hides the client's address", w.problem))
	}
	return warnings, w.problem == nil
}

// sync makes the table from nothing, in one transaction.
func (w *firewall) sync(s network.State) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off = s.NoFirewall
	w.bridges = s.Bridges
	clear(w.forwards)
	for _, f := range s.Forwards {
		w.forwards[keyOf(f)] = f
	}
	if w.off {
		return w.remove()
	}
	w.rebuild()
	return nil
}

// add makes the table know one bridge more.
func (w *firewall) add(b network.Bridge) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bridges = append(slices.DeleteFunc(slices.Clone(w.bridges), func(o network.Bridge) bool { return o.Name == b.Name }), b)
	if !w.off {
		w.rebuild()
	}
}

// drop makes the table forget a bridge.
func (w *firewall) drop(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bridges = slices.DeleteFunc(slices.Clone(w.bridges), func(o network.Bridge) bool { return o.Name == name })
	if w.off {
		return
	}
	w.rebuild()
	if w.problem == nil {
		if err := w.unpassOthers(name); err != nil {
			w.log.Warn("cannot take our rules out of iptables' FORWARD chain", "error", err)
		}
	}
}

// rebuild makes the table as it should be. What the host cannot do is a
// problem that state tells, not an error: containers run without.
func (w *firewall) rebuild() {
	err := w.connect()
	if err == nil {
		before, genErr := w.gen.read()
		if err = w.table().replace(w.nft, w.bridges, slices.Collect(maps.Values(w.forwards))); err == nil && genErr == nil {
			w.lastGen = before + 1
		}
	}
	if err == nil {
		err = w.passOthers()
	}
	if err != nil && (w.problem == nil || w.problem.Error() != err.Error()) {
		w.log.Warn("cannot set up nftables", "table", w.name, "error", err)
	}
	w.problem = err
}

func (w *firewall) table() table { return newTable(w.name) }

// check notices changes that others made to the ruleset since we last looked,
// and repairs what is ours. It costs one short question if there were none.
func (w *firewall) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.off || w.problem != nil {
		return
	}
	now, err := w.gen.read()
	if err != nil || now == w.lastGen {
		return
	}
	if there, err := w.table().exists(w.nft); err == nil && !there {
		w.log.Warn("the nftables table was removed by another program, making it again", "table", w.name)
		w.rebuild()
		return
	}
	if err := w.passOthers(); err != nil {
		w.log.Warn("cannot look at the rules of others", "error", err)
	}
	w.lastGen = now
}

// publish adds forwarded ports. Where there is no firewall, or it fails, the
// ports' own sockets serve them, which is a warning of state.
func (w *firewall) publish(f []network.Forward) {
	w.mu.Lock()
	defer w.mu.Unlock()
	added := make([]network.Forward, 0, len(f))
	for _, x := range f {
		if old, ok := w.forwards[keyOf(x)]; ok && old == x {
			continue
		}
		added = append(added, x)
	}
	w.change(added, nil)
}

// unpublish removes forwarded ports.
func (w *firewall) unpublish(f []network.Forward) {
	w.mu.Lock()
	defer w.mu.Unlock()
	removed := make([]network.Forward, 0, len(f))
	for _, x := range f {
		if old, ok := w.forwards[keyOf(x)]; ok && old == x {
			removed = append(removed, x)
		}
	}
	w.change(nil, removed)
}

// change carries out one transaction, and rebuilds if the table is not as it
// was left.
func (w *firewall) change(add, remove []network.Forward) {
	if w.off || len(add)+len(remove) == 0 {
		return
	}
	for _, f := range add {
		w.forwards[keyOf(f)] = f
	}
	for _, f := range remove {
		delete(w.forwards, keyOf(f))
	}
	if w.problem != nil {
		return // the proxy serves the ports
	}
	before, genErr := w.gen.read()
	err := w.table().change(w.nft, add, remove)
	if err == nil {
		if genErr == nil && before == w.lastGen {
			w.lastGen = before + 1
		}
		forgetFlows(w.log, append(slices.Clone(add), remove...))
		return
	}
	// The usual reason is that our table is gone, or was changed by hand.
	w.log.Warn("a change of published ports failed, making the nftables table again", "table", w.name, "error", err)
	w.rebuild()
}

// remove takes table and rules away.
func (w *firewall) remove() error {
	if w.nft == nil {
		return nil
	}
	err := w.table().remove(w.nft)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(kernelError("remove the nftables table "+w.name, err), w.unpassOthers(""))
}

func (w *firewall) cleanup() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.forwards)
	return w.remove()
}

func (w *firewall) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.nft != nil {
		_ = w.nft.CloseLasting()
		w.gen.close()
		w.nft, w.problem = nil, net.ErrClosed
	}
}

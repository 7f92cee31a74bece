package hostnet

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/network"
)

// table is the layout of our nftables table. As nft(8) would print it:
//
//	table inet caisson_<id> {
//		set bridges { type ifname; }
//		map ports4  { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
//		map any4    { type inet_proto . inet_service : ipv4_addr . inet_service; }
//		map ports6, any6: the same for IPv6
//
//		chain raw         hook prerouting -300: nothing from a bridge to 127.0.0.0/8
//		chain prerouting  hook prerouting dstnat: to an address of the host: jump ports
//		chain output      hook output dstnat: the same for the host's own connections
//		chain ports       destination nat by the maps, an exact address first
//		chain forward     hook forward filter: nothing into or out of an internal bridge;
//		                  to a bridge: jump inbound; from a bridge: accept
//		chain inbound     established, published and same-bridge packets; no others
//		chain postrouting hook postrouting srcnat: masquerade what leaves a subnet,
//		                  what the host's loopback sends, and what comes back to the
//		                  bridge it left
//	}
type table struct {
	*nftables.Table
	bridges        *nftables.Set
	ports4, ports6 *nftables.Set
	any4, any6     *nftables.Set
}

func newTable(name string) table {
	t := table{Table: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}}
	portMap := func(name string, addr nftables.SetDatatype, exact bool) *nftables.Set {
		key := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
		if exact {
			key = append([]nftables.SetDatatype{addr}, key...)
		}
		return &nftables.Set{
			Table: t.Table, Name: name, IsMap: true, Concatenation: true,
			KeyType:  nftables.MustConcatSetType(key...),
			DataType: nftables.MustConcatSetType(addr, nftables.TypeInetService),
		}
	}
	t.bridges = &nftables.Set{Table: t.Table, Name: "bridges", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	t.ports4 = portMap("ports4", nftables.TypeIPAddr, true)
	t.any4 = portMap("any4", nftables.TypeIPAddr, false)
	t.ports6 = portMap("ports6", nftables.TypeIP6Addr, true)
	t.any6 = portMap("any6", nftables.TypeIP6Addr, false)
	return t
}

// maxElements bounds one message: its attributes cannot exceed 64 KiB.
const maxElements = 256

// roomForBatches lets a table with thousands of ports be replaced at once.
func roomForBatches(c *netlink.Conn) error {
	const room = 8 << 20
	// Beyond the host's usual limit only with privileges; what is granted is
	// enough for all but the largest tables.
	_ = c.SetWriteBuffer(room)
	_ = c.SetReadBuffer(room)
	return nil
}

// exists asks whether the table is there.
func (t table) exists(nft *nftables.Conn) (bool, error) {
	_, err := nft.ListTableOfFamily(t.Name, t.Family)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// remove deletes the table.
func (t table) remove(nft *nftables.Conn) error {
	nft.DelTable(t.Table)
	return nft.Flush()
}

// change adds and removes forwarded ports.
func (t table) change(nft *nftables.Conn, add, remove []network.Forward) error {
	if err := t.elements(remove, nft.SetDeleteElements); err != nil {
		return err
	}
	if err := t.elements(add, nft.SetAddElements); err != nil {
		return err
	}
	return nft.Flush()
}

// elements hands the forwards to f as elements of the maps they belong to.
func (t table) elements(forwards []network.Forward, f func(*nftables.Set, []nftables.SetElement) error) error {
	for _, m := range []*nftables.Set{t.ports4, t.any4, t.ports6, t.any6} {
		var batch []nftables.SetElement
		flush := func() error {
			if len(batch) == 0 {
				return nil
			}
			defer func() { batch = batch[:0] }()
			return f(m, batch)
		}
		for _, x := range forwards {
			if t.mapOf(x.HostIP) != m {
				continue
			}
			batch = append(batch, element(x))
			if len(batch) == maxElements {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}

func (t table) mapOf(host netip.Addr) *nftables.Set {
	switch {
	case host.Is4() && host.IsUnspecified():
		return t.any4
	case host.Is4():
		return t.ports4
	case host.IsUnspecified():
		return t.any6
	default:
		return t.ports6
	}
}

var protocolNumbers = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

// element is a port in the form of the maps: each part fills whole registers.
func element(f network.Forward) nftables.SetElement {
	port := func(b []byte, n uint16) []byte { return append(binary.BigEndian.AppendUint16(b, n), 0, 0) }
	var key []byte
	if !f.HostIP.IsUnspecified() {
		key = f.HostIP.AsSlice()
	}
	key = append(key, protocolNumbers[f.Proto], 0, 0, 0)
	return nftables.SetElement{
		Key: port(key, f.HostPort),
		Val: port(f.Target.Addr().AsSlice(), f.Target.Port()),
	}
}

// replace makes the whole table anew.
func (t table) replace(nft *nftables.Conn, bridges []network.Bridge, forwards []network.Forward) error {
	// Adding first makes the deletion valid whether it was there or not.
	nft.AddTable(t.Table)
	nft.DelTable(t.Table)
	nft.AddTable(t.Table)

	var names []nftables.SetElement
	for _, b := range bridges {
		names = append(names, nftables.SetElement{Key: ifname(b.Name)})
	}
	if err := nft.AddSet(t.bridges, names); err != nil {
		return err
	}
	for _, m := range []*nftables.Set{t.ports4, t.any4, t.ports6, t.any6} {
		if err := nft.AddSet(m, nil); err != nil {
			return err
		}
	}
	t.addChains(nft, bridges)
	if err := t.elements(forwards, nft.SetAddElements); err != nil {
		return err
	}
	return nft.Flush()
}

// addChains queues chains and rules.
func (t table) addChains(nft *nftables.Conn, bridges []network.Bridge) {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio nftables.ChainPriority) *nftables.Chain {
		accept := nftables.ChainPolicyAccept
		return nft.AddChain(&nftables.Chain{Table: t.Table, Name: name, Type: kind, Hooknum: hook, Priority: &prio, Policy: &accept})
	}
	ports := nft.AddChain(&nftables.Chain{Table: t.Table, Name: "ports"})
	inbound := nft.AddChain(&nftables.Chain{Table: t.Table, Name: "inbound"})
	raw := base("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	pre := base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	out := base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	post := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	rule := func(c *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		nft.AddRule(&nftables.Rule{Table: t.Table, Chain: c, Exprs: all})
	}
	toLoopback := join(family(unix.NFPROTO_IPV4), inSubnet(toAddr, netip.MustParsePrefix("127.0.0.0/8")))

	// route_localnet on the bridges must not give the host's loopback to containers.
	rule(raw, inSet(expr.MetaKeyIIFNAME, t.bridges), toLoopback, verdict(expr.VerdictDrop))

	// What comes from outside to 127.0.0.0/8 is forged: a port published there
	// is the host's alone.
	rule(pre, toLoopback, verdict(expr.VerdictReturn))
	rule(pre, toHost(), jump("ports"))
	rule(out, toHost(), jump("ports"))

	// Neither ::1 nor a link-local client can be given to another link.
	rule(ports, family(unix.NFPROTO_IPV6), inSubnet(toAddr, netip.MustParsePrefix("::1/128")), verdict(expr.VerdictReturn))
	rule(ports, family(unix.NFPROTO_IPV6), inSubnet(toAddr, netip.MustParsePrefix("fe80::/10")), verdict(expr.VerdictReturn))
	rule(ports, t.dnat(unix.NFPROTO_IPV4, t.ports4, true))
	rule(ports, t.dnat(unix.NFPROTO_IPV4, t.any4, false))
	rule(ports, t.dnat(unix.NFPROTO_IPV6, t.ports6, true))
	rule(ports, t.dnat(unix.NFPROTO_IPV6, t.any6, false))

	// What is internal stays on its bridge, whatever else is allowed.
	for _, b := range bridges {
		if b.Internal {
			rule(forward, name(expr.MetaKeyIIFNAME, expr.CmpOpEq, b.Name), name(expr.MetaKeyOIFNAME, expr.CmpOpNeq, b.Name), verdict(expr.VerdictDrop))
			rule(forward, name(expr.MetaKeyOIFNAME, expr.CmpOpEq, b.Name), name(expr.MetaKeyIIFNAME, expr.CmpOpNeq, b.Name), verdict(expr.VerdictDrop))
		}
	}
	rule(forward, inSet(expr.MetaKeyOIFNAME, t.bridges), jump("inbound"))
	rule(forward, inSet(expr.MetaKeyIIFNAME, t.bridges), verdict(expr.VerdictAccept))
	rule(inbound, conntrack(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	rule(inbound, conntrack(expr.CtKeySTATUS, ctStatusDNAT), verdict(expr.VerdictAccept))
	for _, b := range bridges {
		rule(inbound, name(expr.MetaKeyIIFNAME, expr.CmpOpEq, b.Name), name(expr.MetaKeyOIFNAME, expr.CmpOpEq, b.Name), verdict(expr.VerdictAccept))
	}
	rule(inbound, verdict(expr.VerdictDrop))

	for _, b := range bridges {
		leaves := name(expr.MetaKeyOIFNAME, expr.CmpOpNeq, b.Name)
		enters := name(expr.MetaKeyOIFNAME, expr.CmpOpEq, b.Name)
		published := conntrack(expr.CtKeySTATUS, ctStatusDNAT)
		for _, p := range []netip.Prefix{b.IPv4, b.IPv6} {
			if !p.IsValid() {
				continue
			}
			from := join(family(nfproto(p.Addr())), inSubnet(fromAddr, p))
			if !b.Internal && !b.NoMasquerade {
				rule(post, from, leaves, masquerade())
			}
			rule(post, from, enters, published, masquerade())
		}
		rule(post, family(unix.NFPROTO_IPV4), inSubnet(fromAddr, netip.MustParsePrefix("127.0.0.0/8")), enters, published, masquerade())
	}
}

// The kernel's numbers that the library does not name.
const (
	ctStatusDNAT = 1 << 5 // IPS_DST_NAT
	reg32        = 8      // the first 4-byte register
)

// dnat looks the packet's destination up in a map and sends it where that says.
func (t table) dnat(nfproto byte, m *nftables.Set, exact bool) []expr.Any {
	rule := family(nfproto)
	next, addr := uint32(reg32), fieldOf(nfproto, toAddr)
	if exact {
		rule = append(rule, &expr.Payload{DestRegister: next, Base: expr.PayloadBaseNetworkHeader, Offset: addr.offset, Len: addr.size})
		next += addr.size / 4
	}
	return append(rule,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next},
		&expr.Payload{DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg32, DestRegister: reg32, IsDestRegSet: true, SetName: m.Name, SetID: m.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(nfproto), RegAddrMin: reg32, RegProtoMin: reg32 + addr.size/4},
	)
}

type direction int

const (
	fromAddr direction = iota
	toAddr
)

type field struct{ offset, size uint32 }

// fieldOf is where a network header has its addresses.
func fieldOf(nfproto byte, d direction) field {
	if nfproto == unix.NFPROTO_IPV4 {
		return field{12 + 4*uint32(d), 4}
	}
	return field{8 + 16*uint32(d), 16}
}

func nfproto(a netip.Addr) byte {
	if a.Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func ifname(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

func family(nfproto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{nfproto}},
	}
}

// inSubnet must follow family.
func inSubnet(d direction, p netip.Prefix) []expr.Any {
	f := fieldOf(nfproto(p.Addr()), d)
	mask := make([]byte, f.size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.size, Mask: mask, Xor: make([]byte, f.size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

func name(key expr.MetaKey, op expr.CmpOp, ifn string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: ifname(ifn)},
	}
}

func inSet(key expr.MetaKey, s *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID},
	}
}

// toHost matches packets to an address of the host.
func toHost() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

// conntrack matches if any of the bits is set.
func conntrack(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }
func masquerade() []expr.Any                { return []expr.Any{&expr.Masq{}} }
func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

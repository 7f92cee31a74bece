package hostnet

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/engine/network"
)

// isIptables tells whether a chain is the one in which iptables-nft keeps the
// rules for forwarded packets.
func isIptables(c *nftables.Chain) bool {
	return c.Table.Name == "filter" && c.Name == "FORWARD" &&
		(c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyIPv6)
}

const legacyWarning = "iptables-legacy is in use on this host: if the policy of its FORWARD chain is DROP, containers reach no other network; accept their bridge there, or use iptables-nft"

// dropping lists the chains of others that drop forwarded packets by policy.
func (w *firewall) dropping() ([]*nftables.Chain, error) {
	all, err := w.nft.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	return slices.DeleteFunc(all, func(c *nftables.Chain) bool {
		return c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Table.Name == w.name ||
			c.Table.Family == nftables.TableFamilyBridge || c.Table.Family == nftables.TableFamilyARP || c.Table.Family == nftables.TableFamilyNetdev ||
			c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop
	}), nil
}

// passOthers lets our packets through iptables' FORWARD chain where its policy
// drops them: see the package's comment. Chains that the host's owner wrote
// are left alone, with a warning.
func (w *firewall) passOthers() error {
	w.warnings = w.warnings[:0]
	if b, err := os.ReadFile("/proc/thread-self/net/ip_tables_names"); err == nil && slices.Contains(strings.Fields(string(b)), "filter") {
		w.warnings = append(w.warnings, legacyWarning)
	}
	chains, err := w.dropping()
	if err != nil {
		return err
	}
	for _, chain := range chains {
		if !isIptables(chain) {
			w.warnings = append(w.warnings, fmt.Sprintf("the nftables chain %s of table %s drops forwarded packets by its policy: containers reach no other network unless their bridge is accepted there", chain.Name, chain.Table.Name))
			continue
		}
		rules, err := w.nft.GetRules(chain.Table, chain)
		if err != nil {
			return fmt.Errorf("list iptables' FORWARD chain: %w", err)
		}
		for _, want := range w.passRules(chain) {
			if !slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return sameRule(r, want) }) {
				w.nft.AddRule(want)
				w.log.Info("the policy of iptables' FORWARD chain is to drop: added a rule that lets containers' packets pass", "family", familyName(chain.Table.Family))
			}
		}
	}
	if err := w.nft.Flush(); err != nil {
		return fmt.Errorf("add to iptables' FORWARD chain: %w", err)
	}
	if now, err := w.gen.read(); err == nil {
		w.lastGen = now
	}
	return nil
}

func familyName(f nftables.TableFamily) string {
	if f == nftables.TableFamilyIPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// passRules accept what comes from a bridge and what goes to one.
func (w *firewall) passRules(c *nftables.Chain) []*nftables.Rule {
	var rules []*nftables.Rule
	for _, b := range w.bridges {
		for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
			rules = append(rules, &nftables.Rule{
				Table: c.Table, Chain: c,
				// iptables-nft reads rules of this form as its own -i and -o.
				Exprs:    join(name(key, expr.CmpOpEq, b.Name), []expr.Any{&expr.Counter{}}, verdict(expr.VerdictAccept)),
				UserData: w.mark(),
			})
		}
	}
	return rules
}

// mark is how we know our rules in the tables of others: a comment.
func (w *firewall) mark() []byte {
	return userdata.AppendString(nil, userdata.TypeComment, w.name)
}

// sameRule compares what identifies a rule of passRules.
func sameRule(a, b *nftables.Rule) bool {
	return bytes.Equal(a.UserData, b.UserData) && interfaceOf(a) == interfaceOf(b)
}

type interfaceMatch struct {
	key  expr.MetaKey
	name string
}

func interfaceOf(r *nftables.Rule) interfaceMatch {
	var m interfaceMatch
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			m.key = e.Key
		case *expr.Cmp:
			m.name = string(bytes.TrimRight(e.Data, "\x00"))
		}
	}
	return m
}

// unpassOthers removes what passOthers added for a bridge, "" for all, wherever
// it is now.
func (w *firewall) unpassOthers(bridge string) error {
	all, err := w.nft.ListChains()
	if err != nil {
		return kernelError("list nftables chains", err)
	}
	for _, chain := range all {
		if !isIptables(chain) {
			continue
		}
		rules, err := w.nft.GetRules(chain.Table, chain)
		if err != nil {
			return kernelError("list iptables' FORWARD chain", err)
		}
		for _, r := range rules {
			if bytes.Equal(r.UserData, w.mark()) && (bridge == "" || interfaceOf(r).name == bridge) {
				if err := w.nft.DelRule(r); err != nil {
					return kernelError("remove our rule from iptables' FORWARD chain", err)
				}
			}
		}
	}
	return kernelError("remove our rules from iptables' FORWARD chain", w.nft.Flush())
}

// forgetFlows removes what the kernel remembers of UDP clients of these ports:
// their packets would go on to where the port led before. TCP connections
// begin anew by themselves.
func forgetFlows(log *slog.Logger, forwards []network.Forward) {
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		var filters []netlink.CustomConntrackFilter
		for _, f := range forwards {
			if f.Proto != "udp" || f.HostIP.Is4() != (family == unix.AF_INET) {
				continue
			}
			filter := &netlink.ConntrackFilter{}
			err := filter.AddProtocol(unix.IPPROTO_UDP)
			if err == nil {
				err = filter.AddPort(netlink.ConntrackOrigDstPort, f.HostPort)
			}
			if err == nil && !f.HostIP.IsUnspecified() {
				err = filter.AddIP(netlink.ConntrackOrigDstIP, f.HostIP.AsSlice())
			}
			if err == nil {
				filters = append(filters, filter)
			}
		}
		if len(filters) == 0 {
			continue
		}
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filters...); err != nil {
			log.Debug("cannot forget UDP flows of published ports", "error", err)
		}
	}
}

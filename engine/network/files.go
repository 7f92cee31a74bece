package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Files that resolve names in a container.
const (
	hostnameFile = "hostname"
	hostsFile    = "hosts"
	resolvFile   = "resolv.conf"
)

// Where a host keeps its own. systemd-resolved leaves only its stub in the
// first, on an address that a container cannot reach, and the servers behind
// it in the second.
const (
	hostHosts      = "/etc/hosts"
	hostHostname   = "/etc/hostname"
	hostResolv     = "/etc/resolv.conf"
	resolvedResolv = "/run/systemd/resolve/resolv.conf"
	maxHostFile    = 1 << 20
)

// fallbackDNS are public resolvers, for a host whose own ones a container
// cannot reach. Docker uses the same.
var fallbackDNS = []netip.Addr{
	netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("8.8.4.4"),
	netip.MustParseAddr("2001:4860:4860::8888"), netip.MustParseAddr("2001:4860:4860::8844"),
}

// WriteFiles writes a container's hostname, hosts and resolv.conf into dir. A
// container that shares another's network uses that one's files: nothing is
// written. Errors: InvalidArgument (an extra host that cannot be read).
func (m *Manager) WriteFiles(dir string, r Request, a *Attachment) error {
	if strings.HasPrefix(a.Mode, "container:") {
		return nil
	}
	hosts, err := m.hosts(r, a)
	if err != nil {
		return err
	}
	hostname := []byte(r.Hostname + "\n")
	if r.Hostname == "" && a.Mode == HostNetwork {
		hostname = readHost(hostHostname)
	}
	for name, content := range map[string][]byte{
		hostnameFile: hostname, hostsFile: hosts, resolvFile: m.resolvConf(r, a),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil { //nolint:gosec // any user in the container reads it
			return fmt.Errorf("write %s for container %s: %w", name, shortID(r.Container), err)
		}
	}
	return nil
}

// RewriteFiles changes hosts and resolv.conf of a container that runs from what
// they were for one attachment to what they are for another. The files are
// changed in place, since they are mounted. Where the container wrote into one,
// only lines of ours come and go.
func (m *Manager) RewriteFiles(dir string, r Request, was, is *Attachment) error {
	oldHosts, err := m.hosts(r, was)
	if err != nil {
		return err
	}
	newHosts, err := m.hosts(r, is)
	if err != nil {
		return err
	}
	for name, x := range map[string][2][]byte{
		hostsFile: {oldHosts, newHosts}, resolvFile: {m.resolvConf(r, was), m.resolvConf(r, is)},
	} {
		path := filepath.Join(dir, name)
		now, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read %s of container %s: %w", name, shortID(r.Container), err)
		}
		next := x[1]
		if !bytes.Equal(now, x[0]) {
			if next = now; name == hostsFile {
				next = exchangeLines(now, x[0], x[1])
			}
		}
		if bytes.Equal(now, next) {
			continue
		}
		if err := os.WriteFile(path, next, 0o644); err != nil { //nolint:gosec // any user in the container reads it
			return fmt.Errorf("write %s of container %s: %w", name, shortID(r.Container), err)
		}
	}
	return nil
}

// exchangeLines takes the lines out of a text that only old has, and adds those
// that only next has.
func exchangeLines(text, old, next []byte) []byte {
	lines := func(b []byte) []string { return slices.Collect(strings.Lines(string(b))) }
	var out strings.Builder
	for _, l := range lines(text) {
		if !slices.Contains(lines(old), l) || slices.Contains(lines(next), l) {
			out.WriteString(strings.TrimSuffix(l, "\n") + "\n")
		}
	}
	for _, l := range lines(next) {
		if !slices.Contains(lines(old), l) {
			out.WriteString(l)
		}
	}
	return []byte(out.String())
}

// readHost reads one of the host's files; a missing one is empty.
func readHost(path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil || len(b) > maxHostFile {
		return nil
	}
	return b
}

// hosts is the content of /etc/hosts.
func (m *Manager) hosts(r Request, a *Attachment) ([]byte, error) {
	var b bytes.Buffer
	if a.Mode == HostNetwork {
		b.Write(readHost(hostHosts))
		if n := b.Len(); n > 0 && b.Bytes()[n-1] != '\n' {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString("127.0.0.1\tlocalhost\n")
		if a.Mode == NoneNetwork || hasIPv6(a) {
			b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
		}
	}
	for _, extra := range r.ExtraHosts {
		name, addrs, err := m.extraHost(r.Tenant, extra)
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			fmt.Fprintf(&b, "%s\t%s\n", addr, name)
		}
	}
	if r.Hostname != "" {
		names := r.Hostname
		if r.Domainname != "" {
			names = r.Hostname + "." + r.Domainname + " " + r.Hostname
		}
		for _, ep := range a.Endpoints {
			for _, p := range []netip.Prefix{ep.IPv4, ep.IPv6} {
				if p.IsValid() {
					fmt.Fprintf(&b, "%s\t%s\n", p.Addr(), names)
				}
			}
		}
	}
	return b.Bytes(), nil
}

// hostGateway is what an extra host's address may be instead of an address.
const hostGateway = "host-gateway"

// extraHost reads name:address, where the address may have brackets.
func (m *Manager) extraHost(tenant, s string) (string, []netip.Addr, error) {
	name, value, ok := strings.Cut(s, ":")
	if !ok || name == "" || strings.ContainsAny(name, " \t\n\r#") {
		return "", nil, fmt.Errorf("invalid extra host %q: write name:address: %w", s, errdefs.ErrInvalidArgument)
	}
	if value == hostGateway {
		addrs := m.hostGateway(tenant)
		if len(addrs) == 0 {
			return "", nil, fmt.Errorf("extra host %q: the default bridge has no address to stand for %s: %w", s, hostGateway, errdefs.ErrFailedPrecondition)
		}
		return name, addrs, nil
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(value, "["), "]"))
	if err != nil {
		return "", nil, fmt.Errorf("invalid IP address in extra host %q: %w", s, errdefs.ErrInvalidArgument)
	}
	return name, []netip.Addr{addr}, nil
}

func (m *Manager) hostGateway(tenant string) []netip.Addr {
	if len(m.cfg.HostGatewayIP) > 0 {
		return m.cfg.HostGatewayIP
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(tenant, BridgeNetwork)
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, p := range []netip.Prefix{n.IPv4, n.IPv6} {
		if p.IsValid() {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs
}

func hasIPv6(a *Attachment) bool {
	return slices.ContainsFunc(a.Endpoints, func(ep Endpoint) bool { return ep.IPv6.IsValid() })
}

// resolvConf is the content of /etc/resolv.conf: the host's, as far as it makes
// sense in the container, with what request and configuration say instead.
func (m *Manager) resolvConf(r Request, a *Attachment) []byte {
	dns, search, options := r.DNS, r.DNSSearch, r.DNSOptions
	if len(dns) == 0 {
		dns = m.cfg.DNS
	}
	if len(search) == 0 {
		search = m.cfg.DNSSearch
	}
	if len(options) == 0 {
		options = m.cfg.DNSOptions
	}
	raw := readHost(hostResolv)
	if own := m.ownResolver(a); own.IsValid() {
		return ownResolvConf(own, search, options, parseResolv(raw))
	}
	if a.Mode == HostNetwork && len(dns)+len(search)+len(options) == 0 {
		return raw
	}
	host := parseResolv(raw)
	if a.Mode != HostNetwork && len(dns) == 0 && onlyLoopback(host.servers) {
		host = parseResolv(readHost(resolvedResolv))
	}
	if len(dns) == 0 {
		dns = host.servers
		if a.Mode != HostNetwork {
			dns = reachable(dns, a.Mode == NoneNetwork || hasIPv6(a))
		}
	}
	if len(search) == 0 {
		search = host.search
	}
	if len(options) == 0 {
		options = host.options
	}
	return writeResolv(dns, search, options)
}

// writeResolv writes resolv.conf.
func writeResolv(dns []netip.Addr, search, options []string) []byte {
	var b bytes.Buffer
	for _, s := range dns {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	// A single dot asks for no search at all.
	if len(search) > 0 && (len(search) != 1 || search[0] != ".") {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.Bytes()
}

// resolv is what resolv.conf(5) can say, but for sortlist.
type resolv struct {
	servers []netip.Addr
	search  []string
	options []string
}

func parseResolv(b []byte) resolv {
	var r resolv
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil {
				r.servers = append(r.servers, a)
			}
		case "search", "domain":
			r.search = f[1:] // the last one counts
		case "options":
			r.options = append(r.options, f[1:]...)
		}
	}
	return r
}

func onlyLoopback(servers []netip.Addr) bool {
	return len(servers) > 0 && !slices.ContainsFunc(servers, func(a netip.Addr) bool { return !a.IsLoopback() })
}

// reachable leaves out what a container cannot reach: the host's loopback,
// zones of the host, families it lacks. With none left it is the fallback.
func reachable(servers []netip.Addr, ipv6 bool) []netip.Addr {
	usable := func(a netip.Addr) bool {
		return !a.IsLoopback() && a.Zone() == "" && !a.IsUnspecified() && (ipv6 || a.Is4())
	}
	pick := func(from []netip.Addr) []netip.Addr {
		var to []netip.Addr
		for _, a := range from {
			if usable(a) {
				to = append(to, a)
			}
		}
		return to
	}
	if s := pick(servers); len(s) > 0 {
		return s
	}
	return pick(fallbackDNS)
}

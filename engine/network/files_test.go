package network

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestWriteFiles(t *testing.T) {
	m := newTestManager(t, newFakeDriver(), func(c *Config) { c.IPv6 = netip.MustParsePrefix("fd00::1/64") })
	dir := t.TempDir()
	r := Request{
		Container: "c", Hostname: "web", Domainname: "example.org",
		DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, DNSSearch: []string{"a.example", "b.example"}, DNSOptions: []string{"ndots:2"},
		ExtraHosts: []string{"db:192.0.2.7", "six:[2001:db8::7]", "seven:2001:db8::7", "gw:host-gateway"},
	}
	a := &Attachment{Mode: "bridge", Endpoints: []Endpoint{{IPv4: netip.MustParsePrefix("172.17.0.2/16"), IPv6: netip.MustParsePrefix("fd00::2/64")}}}
	if err := m.WriteFiles(dir, r, a); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"hostname":    "web\n",
		"resolv.conf": "nameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:2\n",
		"hosts": "127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n" +
			"192.0.2.7\tdb\n2001:db8::7\tsix\n2001:db8::7\tseven\n172.17.0.1\tgw\nfd00::1\tgw\n" +
			"172.17.0.2\tweb.example.org web\nfd00::2\tweb.example.org web\n",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "db", ":192.0.2.1", "db:", "db:x", "a b:192.0.2.1", "a\nb:192.0.2.1"} {
		r.ExtraHosts = []string{bad}
		if err := m.WriteFiles(dir, r, a); !errdefs.IsInvalidArgument(err) {
			t.Errorf("extra host %q: %v", bad, err)
		}
	}
	shared := t.TempDir()
	if err := m.WriteFiles(shared, Request{}, &Attachment{Mode: "container:x"}); err != nil {
		t.Fatal(err)
	}
	if e, _ := os.ReadDir(shared); len(e) != 0 {
		t.Errorf("files of a container that shares another's: %v", e)
	}
}

func TestResolvers(t *testing.T) {
	addrs := func(s ...string) (a []netip.Addr) {
		for _, x := range s {
			a = append(a, netip.MustParseAddr(x))
		}
		return a
	}
	tests := []struct {
		servers []netip.Addr
		ipv6    bool
		want    string
	}{
		{addrs("192.0.2.1", "127.0.0.1", "2001:db8::1"), true, "[192.0.2.1 2001:db8::1]"},
		{addrs("192.0.2.1", "2001:db8::1", "fe80::1%eth0"), false, "[192.0.2.1]"},
		{addrs("127.0.0.53"), false, "[8.8.8.8 8.8.4.4]"},
		{nil, true, "[8.8.8.8 8.8.4.4 2001:4860:4860::8888 2001:4860:4860::8844]"},
	}
	for _, tt := range tests {
		if got := reachable(tt.servers, tt.ipv6); sprint(got) != tt.want {
			t.Errorf("%v: %v, want %s", tt.servers, got, tt.want)
		}
	}
	r := parseResolv([]byte("# x\nnameserver 192.0.2.1 # y\nnameserver bad\nsearch a\nsearch b c\noptions x y\noptions z\n; nameserver 1.1.1.1\nnameserver\n"))
	if sprint(r.servers, r.search, r.options) != "[192.0.2.1] [b c] [x y z]" {
		t.Errorf("parsed: %v", r)
	}
}

func FuzzParseResolv(f *testing.F) {
	f.Add([]byte("nameserver 1.2.3.4\nsearch a b\noptions ndots:5"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, a := range parseResolv(b).servers {
			if !a.IsValid() {
				t.Errorf("%q gives an invalid server", b)
			}
		}
	})
}

// What a container wrote into its files stays when its networks change.
func TestRewriteFiles(t *testing.T) {
	m := newTestManager(t, newFakeDriver(), nil)
	if err := m.Restore(context.Background(), nil, func(string) string { return "/ns" }); err != nil {
		t.Fatal(err)
	}
	n := makeNetwork(t, m, CreateRequest{Name: "n"})
	ctx := context.Background()
	r := Request{Container: "c", Hostname: "box", DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}
	for _, own := range []string{"", "192.0.2.1 mine\n"} {
		dir := t.TempDir()
		was, _, err := m.Attach(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.WriteFiles(dir, r, was); err != nil {
			t.Fatal(err)
		}
		before := readFile(t, dir, hostsFile)
		for _, name := range []string{hostsFile, resolvFile} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(readFile(t, dir, name)+own), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		is, err := m.Connect(ctx, r, n.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.RewriteFiles(dir, r, was, is); err != nil {
			t.Fatal(err)
		}
		line := is.Endpoints[1].IPv4.Addr().String() + "\tbox\n"
		if got := readFile(t, dir, hostsFile); got != before+own+line {
			t.Errorf("%q", got)
		}
		if got := readFile(t, dir, resolvFile); strings.Contains(got, "127.0.0.11") != (own == "") {
			t.Errorf("%q", got)
		}
		if err := m.RewriteFiles(dir, r, is, was); err != nil {
			t.Fatal(err)
		}
		if got := readFile(t, dir, hostsFile); got != before+own {
			t.Errorf("%q", got)
		}
		if err := m.Release(ctx, is); err != nil {
			t.Fatal(err)
		}
	}
}

func readFile(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/caisson-engine/caisson/engine/identity"
)

var (
	root   = identity.FromPeer(0, 0, 1)
	uid7   = identity.FromPeer(7, 70, 1, 71, 72)
	ciCert = identity.FromCert("ci-4", "CN=ci-4")
	sandb  = Backend{Name: "oci", OS: "linux", Levels: []Level{{"sandbox", 200}}, Default: "sandbox"}
	tcg    = Backend{Name: "vm", OS: "linux", Levels: []Level{{"vm", 300}}, Default: "vm", Emulated: true}
)

func parse(t testing.TB, file string) *Policy {
	t.Helper()
	p, err := Parse([]byte(file))
	if err != nil {
		t.Fatalf("%s\n%v", file, err)
	}
	return p
}

// decide identifies and decides, as the engine does.
func (p *Policy) decide(id identity.Identity, in Input) (Decision, error) {
	id, err := p.Identify(id)
	if err != nil {
		return Decision{}, err
	}
	in.Identity = id
	if in.OS == "" {
		in.OS = "linux"
	}
	if in.Backends == nil {
		in.Backends = []Backend{process, sandb, vm}
	}
	return p.Decide(in)
}

const tenancy = "tenants: [{name: seven, uids: [7]}, {name: ci, certs: ['ci-*']}, {name: group, gids: [90]}]\n"

func TestRules(t *testing.T) {
	priv, admin := []Ask{{"privileged", ""}}, []Ask{{"capabilities", "NET_ADMIN"}}
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, c := range []struct {
		name, rules string
		id          identity.Identity
		in          Input
		want        string // level rule, or "denied rule"
		says        string
	}{
		{name: "no rule, an admin", id: root, in: Input{Asks: priv}, want: "process "},
		{name: "no rule, a tenant", id: uid7, in: Input{Asks: priv}, want: "denied (none)", says: "tenant seven (uid:7) may not use --privileged"},
		{name: "no rule, a tenant that asks for nothing", id: uid7, want: "process "},
		{name: "least level", rules: "{name: r, level: vm}", id: uid7, want: "vm r"},
		{name: "least level, less asked", rules: "{name: r, level: vm}", id: root, in: Input{Isolation: "process"}, want: "denied r", says: "at least vm is required"},
		{name: "least level, more asked", rules: "{name: r, level: sandbox}", id: root, in: Input{Isolation: "hyperv"}, want: "vm r"},
		{name: "the stronger of rule and minimum", rules: "{name: r, level: sandbox}", id: root, want: "vm r", in: Input{Image: "MIN"}},
		{name: "first match wins", rules: "{name: a, match: {tenant: seven}, level: vm}, {name: b}", id: uid7, want: "vm a"},
		{name: "what does not match is passed over", rules: "{name: a, match: {tenant: ci}, level: vm}, {name: b, level: sandbox}", id: uid7, want: "sandbox b"},
		{name: "deny", rules: "{name: a, deny: true}", id: root, want: "denied a", says: "ask the host's owner"},
		{name: "deny with a reason", rules: "{name: a, deny: use the other host}", id: root, want: "denied a", says: "use the other host"},
		{name: "allow", rules: "{name: a, allow: {privileged: true}}", id: uid7, in: Input{Asks: priv}, want: "process a"},
		{name: "allow something else", rules: "{name: a, allow: {privileged: true}}", id: uid7, in: Input{Asks: admin}, want: "denied a", says: "capabilities: [NET_ADMIN]"},
		{name: "allow binds admins, too", rules: "{name: a, allow: {}}", id: root, in: Input{Asks: priv}, want: "denied a"},
		{name: "a rule without allow does not bind admins", rules: "{name: a}", id: root, in: Input{Asks: priv}, want: "process a"},
		{name: "cap ALL", rules: "{name: a, allow: {capabilities: all}}", id: uid7, in: Input{Asks: admin}, want: "process a"},
		{name: "path", rules: "{name: a, allow: {host_paths: [/srv/x/]}}", id: uid7, in: Input{Asks: []Ask{{"host_paths", "/srv/x"}, {"host_paths", "/srv/x:ro"}}}, want: "process a"},
		{name: "path below", rules: "{name: a, allow: {host_paths: [/srv/x]}}", id: uid7, in: Input{Asks: []Ask{{"host_paths", "/srv/x/y"}}}, want: "denied a"},
		{name: "path for reading", rules: "{name: a, allow: {host_paths: ['/srv/x:ro']}}", id: uid7, in: Input{Asks: []Ask{{"host_paths", "/srv/x"}}}, want: "denied a"},
		{name: "device", rules: "{name: a, allow: {devices: ['/dev/dri/*']}}", id: uid7, in: Input{Asks: []Ask{{"devices", "/dev/dri/card0"}}}, want: "process a"},
		{name: "port", rules: "{name: a, allow: {host_ports: [80, 400-500]}}", id: uid7, in: Input{Asks: []Ask{{"host_ports", "80"}, {"host_ports", "443"}}}, want: "process a"},
		{name: "other port", rules: "{name: a, allow: {host_ports: [80, 400-500]}}", id: uid7, in: Input{Asks: []Ask{{"host_ports", "53"}}}, want: "denied a"},

		{name: "by uid", rules: "{name: a, match: {uid: [7]}, level: vm}", id: uid7, want: "vm a"},
		{name: "by group", rules: "{name: a, match: {gid: [72]}, level: vm}", id: uid7, want: "vm a"},
		{name: "by another's group", rules: "{name: a, match: {gid: [73]}, level: vm}", id: uid7, want: "process "},
		{name: "by cert", rules: "{name: a, match: {cert: ci-*}, level: vm}", id: ciCert, want: "vm a"},
		{name: "no cert", rules: "{name: a, match: {cert: '*'}, level: vm}", id: uid7, want: "process "},
		{name: "by image", rules: "{name: a, match: {image: 'debian'}, level: vm}", id: root, in: Input{Names: []string{"docker.io/library/debian:12"}}, want: "vm a"},
		{name: "by image's digest", rules: "{name: a, match: {image: 'debian'}, level: vm}", id: root, in: Input{Names: []string{"docker.io/library/debian@" + digest}}, want: "vm a"},
		{name: "by another image", rules: "{name: a, match: {image: 'debian'}, level: vm}", id: root, in: Input{Names: []string{"docker.io/library/debian-evil:12"}}, want: "process "},
		{name: "by tag", rules: "{name: a, match: {image: 'reg.example/x/*:1'}, level: vm}", id: root, in: Input{Names: []string{"reg.example/x/y/z:1"}}, want: "vm a"},
		{name: "every image", rules: "{name: a, match: {image: '*'}, level: vm}", id: root, want: "vm a"},
		{name: "an image without a name that counts", rules: "{name: a, match: {image: 'x/*'}, level: vm}", id: uid7, in: Input{Image: "x/y"}, want: "process "},
		{name: "by registry", rules: "{name: a, match: {registry: ['*.corp', 'reg:5000']}, level: vm}", id: root, in: Input{Names: []string{"reg:5000/x:1"}}, want: "vm a"},
		{name: "by digest", rules: "{name: a, match: {digest: " + digest + "}, level: vm}", id: root, in: Input{Digests: []string{"sha256:b", digest}}, want: "vm a"},
		{name: "by labels", rules: "{name: a, match: {label: [k, l=v]}, level: vm}", id: root, in: Input{Labels: map[string]string{"k": "1", "l": "v"}}, want: "vm a"},
		{name: "by one label of two", rules: "{name: a, match: {label: [k, l=v]}, level: vm}", id: root, in: Input{Labels: map[string]string{"l": "v"}}, want: "process "},
		{name: "by network", rules: "{name: a, match: {network: [host, none]}, level: vm}", id: root, in: Input{Network: "none"}, want: "vm a"},
		{name: "by what it asks for", rules: "{name: a, match: {requests: [privileged]}, level: vm}", id: root, in: Input{Asks: priv}, want: "vm a"},
		{name: "by what it does not ask for", rules: "{name: a, match: {requests: [privileged]}, level: vm}", id: root, in: Input{Asks: admin}, want: "process "},

		{name: "limits", rules: "{name: a, limits: {memory: 1g, cpus: 2, pids: 100}}", id: root, in: Input{Resources: Resources{Memory: 1 << 30, CPUs: 2, Pids: 100}}, want: "process a"},
		{name: "memory", rules: "{name: a, limits: {memory: 1g}}", id: root, in: Input{Resources: Resources{Memory: 1<<30 + 1}}, want: "denied a", says: "memory to 1g"},
		{name: "swap", rules: "{name: a, limits: {memory: 1g}}", id: root, in: Input{Resources: Resources{Memory: 1 << 30, Swap: -1}}, want: "denied a", says: "swap"},
		{name: "pids without end", rules: "{name: a, limits: {pids: 9}}", id: root, in: Input{Resources: Resources{Pids: -1}}, want: "denied a", says: "processes to 9"},
		{name: "cpus", rules: "{name: a, limits: {cpus: 1.5}}", id: root, in: Input{Resources: Resources{CPUs: 1.6}}, want: "denied a", says: "cpus to 1.5"},

		{name: "emulated", rules: "{name: a, level: vm}", id: root, in: Input{Backends: []Backend{process, tcg}}, want: "denied allow_emulation", says: "allow_emulation: true"},
		{name: "emulated, asked for", id: uid7, in: Input{Isolation: "vm", Backends: []Backend{process, tcg}}, want: "denied allow_emulation"},
		{name: "emulated first, nobody asked", rules: "{name: a, level: process}", id: root, in: Input{Backends: []Backend{tcg, process}}, want: "process a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := tenancy + "rules: [" + c.rules + "]"
			if c.in.Image == "MIN" {
				file += "\nminimum_level: vm"
				c.want = "vm r"
			}
			d, err := parse(t, file).decide(c.id, c.in)
			got := d.Level + " " + d.Rule
			if errdefs.IsPermissionDenied(err) {
				got = "denied " + RuleOf(err)
			} else if err != nil {
				t.Fatal(err)
			}
			if c.in.Image == "MIN" && got == "vm minimum_level" {
				got = c.want // either may be named: they demand the same
			}
			if got != c.want || !strings.Contains(fmt.Sprint(err, d.Reason), c.says) {
				t.Errorf("got %s, want %s: %v %s", got, c.want, err, d.Reason)
			}
		})
	}
}

func TestEmulationIsSaid(t *testing.T) {
	p := parse(t, "allow_emulation: true\ndefault_level: vm")
	d, err := p.decide(root, Input{Backends: []Backend{process, tcg}})
	if err != nil || !d.Emulated || !strings.Contains(d.Reason, "no security boundary") {
		t.Errorf("%+v %v", d, err)
	}
	if err := p.Violation(Input{Backends: []Backend{tcg}}, Level{"vm", 300}, true); err != nil {
		t.Error(err)
	}
	if err := parse(t, "").Violation(Input{Backends: []Backend{tcg}}, Level{"vm", 300}, true); RuleOf(err) != "allow_emulation" {
		t.Error(err)
	}
}

func TestIdentify(t *testing.T) {
	for _, c := range []struct {
		name, file string
		id         identity.Identity
		want       string // tenant, "admin", or "nobody"
	}{
		{"no file", "", uid7, "admin"},
		{"levels and rules only", "default_level: vm\nrules: [{name: a}]", identity.Anonymous, "admin"},
		{"root", tenancy, root, "admin"},
		{"root without the word", "admins: {uids: [5]}", root, "admin"},
		{"an admin", "admins: {uids: [7]}\n" + tenancy, uid7, "admin"},
		{"an admin by group", "admins: {gids: [71]}", uid7, "admin"},
		{"an admin by certificate", "admins: {certs: [ci-4]}", ciCert, "admin"},
		{"a tenant", tenancy, uid7, "seven"},
		{"by certificate", tenancy, ciCert, "ci"},
		{"by group", tenancy, identity.FromPeer(9, 90, 1), "group"},
		{"the first counts", "tenants: [{name: a, gids: [70]}, {name: b, uids: [7]}]", uid7, "a"},
		{"another", tenancy, identity.FromPeer(8, 80, 1), "uid:8"},
		{"nobody known", tenancy, identity.Anonymous, "anonymous"},
		{"nobody known is in no group of root's", "admins: {uids: [-1], gids: [-1]}", identity.Anonymous, "anonymous"},
		{"others denied", "others: {deny: true}", uid7, "nobody"},
		{"others denied, an admin", "others: {deny: not here}", root, "admin"},
		{"a certificate like a tenant", tenancy, identity.FromCert("seven", ""), "cert:seven"},
		{"a certificate without a name", "tenants: [{name: a, certs: ['*']}]", identity.FromCert("", ""), "cert:"},
		{"a name without end", tenancy, identity.FromCert(strings.Repeat("x", 500), ""), "nobody"},
		{"the engine", "others: {deny: true}", identity.Engine, "admin"},
	} {
		id, err := parse(t, c.file).Identify(c.id)
		got := id.Tenant
		switch {
		case errdefs.IsPermissionDenied(err):
			got = "nobody"
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case id.Admin:
			got = "admin"
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestRegistries(t *testing.T) {
	p := parse(t, "tenants: [{name: seven, uids: [7], registries: ['reg.corp', '*.dev']}, {name: eight, uids: [8]}]\nothers: {}")
	for _, c := range []struct {
		tenant, host string
		ok           bool
	}{
		{"seven", "reg.corp", true}, {"seven", "a.dev", true}, {"seven", "docker.io", false}, {"seven", "localhost:5000", false},
		{"eight", "docker.io", true}, {"eight", "localhost:5000", false}, {"eight", "127.0.0.1", false}, {"eight", "[::1]:5000", false},
		{"eight", "169.254.169.254", false}, {"eight", "[::ffff:127.0.0.1]:1", false}, {"eight", "0.0.0.0", false}, {"eight", "LOCALHOST", false},
		{"uid:9", "quay.io", true}, {"uid:9", "x.localhost", false},
	} {
		if err := p.Registry(identity.Identity{Tenant: c.tenant}, c.host); (err == nil) != c.ok || err != nil && !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s %s: %v", c.tenant, c.host, err)
		}
	}
	if err := p.Registry(identity.Identity{Admin: true}, "localhost"); err != nil {
		t.Error(err)
	}
}

// Errors say where in the file and what is wrong, in the file's own words.
func TestParseSaysWhere(t *testing.T) {
	for file, want := range map[string]string{
		"default_level: vm\nminimun_level: vm":                                `line 2: there is no key "minimun_level" here`,
		"rules:\n- name: a\n  match:\n    imgae: x":                           `line 4: there is no key "imgae" here`,
		"rules:\n- name: a\n  allow:\n    priviledged: true":                  `line 4: there is no key "priviledged"`,
		"rules:\n- name: a\n- level: vm":                                      "line 3: rule 2 has no name",
		"rules:\n- name: a\n- name: a":                                        `line 3: rule "a" is there twice`,
		"rules:\n- name: a\n  match: {requests: [x]}":                         `line 3: rule "a": there is no option "x": want one of annotations`,
		"rules:\n- name: a\n  match:\n    digest: abc":                        `"abc" is no digest`,
		"rules:\n- name: a\n  allow:\n    host_paths:\n    - /ok\n    - rel":  `line 6: rule "a": host path "rel"`,
		"rules:\n- name: a\n  allow: {host_paths: ['/home/x/..']}":            "one absolute path",
		"rules:\n- name: a\n  allow: {host_paths: ['/home/*']}":               "one absolute path",
		"rules:\n- name: a\n  allow: {capabilities: [CAP_NET ADMIN]}":         "is no capability",
		"rules:\n- name: a\n  limits: {memory: lots}":                         `line 3: want an amount such as 512m or 2g, not "lots"`,
		"rules:\n- name: a\n  limits: {memory: 1g}\n  defaults: {memory: 2g}": "line 4: rule \"a\": the default of memory is more than its limit",
		"rules:\n- name: a\n  deny: true\n  allow: {}":                        "line 4: rule \"a\": a rule that denies allows nothing",
		"rules:\n- name: a\n  match: {uid: root}":                             `line 3: want a list of numbers here, not "root"`,
		"allow_emulation: maybe":                                              `line 1: want true or false here, not "maybe"`,
		"tenants:\n- name: a b\n  uids: [1]":                                  `line 2: tenant name "a b"`,
		"tenants:\n- name: engine\n  uids: [1]":                               "has a meaning of its own",
		"tenants:\n- name: a":                                                 `line 2: tenant "a" has no clients`,
		"tenants:\n- {name: a, uids: [1]}\n- {name: a, uids: [2]}":            `line 3: tenant "a" is there twice`,
		"tenants:\n- name: a\n  uids: [1]\n  quota: {containers: -1}":         "line 4: tenant \"a\": a quota cannot be negative",
		"rules: 7": "line 1: want a list here",
		"default_level: vm\ndefault_level: process":         `line 2: key "default_level" was given already, in line 1`,
		"rules:\n- name: a\n  match: {image: ['']}":         "an empty text matches nothing",
		"rules:\n- name: a\n  match: {label: [=x]}":         "want key or key=value",
		"rules:\n- name: a\n  allow: {host_ports: [90-80]}": "want a port or a range",
	} {
		_, err := Parse([]byte(file))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "policy.") {
			t.Errorf("%s\n got %v\nwant %s", file, err, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for file, want := range map[string]string{
		"rules: [{name: a, match: {label: trusted}, allow: {privileged: true}}]":               "nothing that a client cannot choose itself",
		"rules: [{name: a, match: {tenant: '*', network: none}, allow: {host_paths: [/srv]}}]": "nothing that a client cannot choose itself",
		"rules: [{name: a}, {name: b}]":            `rule "b" is never reached`,
		"rules: [{name: a, match: {tenant: web}}]": "every client is an admin",
		"shared_images: x":                         "means nothing without tenants",
		tenancy + "rules: [{name: a, match: {tenant: seven, label: x}, allow: {privileged: true}}]": "",
		tenancy + "rules: [{name: a, match: {label: x}, level: vm}]":                                "",
	} {
		if got := strings.Join(parse(t, file).Warnings(), "\n"); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%s: %q", file, got)
		}
	}
}

// judged are the fields of a HostConfig that Asks looks at; harmless are those
// that give no power over the host, each with why. A field that a later version
// of the API adds is in neither, and fails this test until it is thought about.
var (
	judged = strings.Fields(`Privileged NetworkMode PidMode IpcMode UTSMode UsernsMode CgroupnsMode CgroupParent CapAdd Devices
		DeviceCgroupRules DeviceRequests SecurityOpt MaskedPaths ReadonlyPaths PortBindings OomScoreAdj OomKillDisable
		CPURealtimeRuntime CPURealtimePeriod Ulimits Annotations`)
	harmless = map[string]string{
		"Binds": "come in as binds", "Mounts": "come in as binds", "VolumesFrom": "found among the client's own; their binds come in as binds",
		"ContainerIDFile": "the client's", "LogConfig": "the drivers write nowhere but in the engine's directories", "RestartPolicy": "its own",
		"AutoRemove": "its own", "VolumeDriver": "there is only the local one", "ConsoleSize": "its own", "CapDrop": "less",
		"DNS": "its own", "DNSOptions": "its own", "DNSSearch": "its own", "ExtraHosts": "its own", "GroupAdd": "numbers inside",
		"Cgroup": "refused by the engine", "Links": "finds only what its creator sees", "PublishAllPorts": "high ports, counted by the quota",
		"ReadonlyRootfs": "less", "StorageOpt": "less", "Tmpfs": "its own memory", "ShmSize": "its own memory",
		"Sysctls": "those of its own namespaces only", "Runtime": "is what the level is chosen by", "Isolation": "is what the level is chosen by",
		"Init": "its own", "Umask": "its own", "CPUShares": "a share", "Memory": "limited by rule and quota", "NanoCPUs": "limited by rule and quota",
		"BlkioWeight": "a share", "BlkioWeightDevice": "a share", "BlkioDeviceReadBps": "less", "BlkioDeviceWriteBps": "less",
		"BlkioDeviceReadIOps": "less", "BlkioDeviceWriteIOps": "less", "CPUPeriod": "limited by rule and quota", "CPUQuota": "limited by rule and quota",
		"CpusetCpus": "less", "CpusetMems": "less", "MemoryReservation": "a share", "MemorySwap": "limited by rule", "MemorySwappiness": "its own",
		"PidsLimit": "limited by rule and quota", "CPUCount": "Windows", "CPUPercent": "Windows", "IOMaximumIOps": "less", "IOMaximumBandwidth": "less",
	}
)

func TestEveryFieldIsJudged(t *testing.T) {
	var walk func(rt reflect.Type)
	walk = func(rt reflect.Type) {
		for i := range rt.NumField() {
			f := rt.Field(i)
			if f.Anonymous {
				walk(f.Type)
				continue
			}
			if !slices.Contains(judged, f.Name) && harmless[f.Name] == "" {
				t.Errorf("HostConfig.%s: nobody has thought about what it gives a tenant", f.Name)
			}
		}
	}
	walk(reflect.TypeFor[container.HostConfig]())
}

func TestAsksOfDefaults(t *testing.T) {
	base := Base{Cgroupns: "host", CgroupParent: "/x", NoNewPrivileges: true, MaskedPaths: []string{"/a"}, ReadonlyPaths: []string{"/b"}}
	h := &container.HostConfig{
		CgroupnsMode: "host", MaskedPaths: []string{"/a", "/c"}, SecurityOpt: []string{"no-new-privileges", "seccomp=builtin", "label=disable"},
		CapAdd: []string{"CAP_CHOWN", "net_raw"}, OomScoreAdj: 100,
		PortBindings: network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: "8080"}, {HostPort: ""}, {HostPort: "2000-2010"}}},
	}
	h.CgroupParent = "/x"
	if got := Asks(h, nil, base); len(got) != 0 {
		t.Errorf("what the daemon gives everybody is asked for: %v", got)
	}
	h.SecurityOpt = []string{"no-new-privileges=false"}
	if got := Asks(h, nil, base); len(got) != 1 || got[0].Option != "new_privileges" {
		t.Error(got)
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		p, s string
		want bool
	}{
		{"", "", true}, {"*", "", true}, {"*", "a/b:c", true}, {"a*c", "abc", true}, {"a*c", "abcd", false}, {"a*b*c", "axxbyyc", true},
		{"?", "a", true}, {"?", "", false}, {"a", "", false}, {"", "a", false}, {"*a", "aaab", false}, {"*ab", "aaab", true}, {"**", "x", true},
		{strings.Repeat("*a", 200) + "b", strings.Repeat("a", 400), false},
	} {
		if glob(c.p, c.s) != c.want {
			t.Errorf("%.20q %.20q", c.p, c.s)
		}
	}
}

func TestFullName(t *testing.T) {
	for in, want := range map[string]string{
		"debian": "docker.io/library/debian:latest", "debian:12": "docker.io/library/debian:12", "a/b": "docker.io/a/b:latest",
		"reg.x/b": "reg.x/b:latest", "localhost/b": "localhost/b:latest", "reg:5000/b:1": "reg:5000/b:1", "debian@sha256:a": "docker.io/library/debian@sha256:a",
	} {
		if got := FullName(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"*": "*", "debian": "docker.io/library/debian:*", "debian:12": "docker.io/library/debian:12", "a/*": "docker.io/a/*", "reg.x/b": "reg.x/b:*",
		"*.corp/x": "*.corp/x:*", "reg:5000/*": "reg:5000/*",
	} {
		if got := fullPattern(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// What holds for every policy and every question.
func TestDecideKeepsItsWord(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pickOf := func(s ...string) string { return s[r.IntN(len(s))] }
	names := OptionNames()
	decided, denied := 0, 0
	for range 20000 {
		p := &Policy{
			DefaultLevel: pickOf("", "process", "sandbox", "vm"), MinimumLevel: pickOf("", "", "process", "sandbox", "vm"),
			AllowEmulation: r.IntN(2) == 0, Tenants: []Tenant{{Name: "seven", Who: Who{UIDs: []int{7}}}},
		}
		for i := range r.IntN(3) {
			rule := Rule{Name: fmt.Sprint("r", i), Level: pickOf("", "process", "sandbox", "vm"), Match: Match{Tenant: List{pickOf("*", "seven", "x")}}}
			if r.IntN(2) == 0 {
				rule.Allow = &Allow{Privileged: r.IntN(2) == 0, Capabilities: List{"NET_ADMIN"}, HostNetwork: r.IntN(2) == 0}
			}
			rule.Deny.Yes = r.IntN(8) == 0
			rule.Limits.Memory = Bytes(r.IntN(3) * 100)
			p.Rules = append(p.Rules, rule)
		}
		in := Input{OS: "linux", Isolation: pickOf("", "", "process", "sandbox", "vm"), Backends: []Backend{process, sandb, vm}}
		if r.IntN(2) == 0 {
			in.Backends = []Backend{process, sandb, tcg}
		}
		for range r.IntN(3) {
			in.Asks = append(in.Asks, Ask{names[r.IntN(len(names))], pickOf("", "NET_ADMIN", "/x", "80")})
		}
		in.Resources.Memory = int64(r.IntN(4) * 80)
		id, err := p.Identify([]identity.Identity{root, uid7}[r.IntN(2)])
		if err != nil {
			t.Fatal(err)
		}
		in.Identity = id
		d, err := p.Decide(in)
		if again, err2 := p.Decide(in); again != d || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Fatalf("two answers to one question: %+v %+v", d, again)
		}
		if err != nil {
			denied++
			continue
		}
		decided++
		rule := p.match(&in)
		for _, least := range []string{p.MinimumLevel, rule.level(), Canonical(in.Isolation)} {
			if s, _ := strength(in.Backends, least); d.Strength < s {
				t.Fatalf("%+v is weaker than %s: %+v %+v", d, least, p, in)
			}
		}
		if d.Emulated && !p.AllowEmulation {
			t.Fatalf("emulated: %+v", d)
		}
		if rule != nil && rule.Deny.Yes {
			t.Fatalf("denied by %s: %+v", rule.Name, d)
		}
		if !id.Admin {
			for _, a := range in.Asks {
				if rule == nil || !rule.Allow.permits(a) {
					t.Fatalf("a tenant got %v by %+v", a, rule)
				}
			}
		}
		// What was allowed is no violation a moment later.
		after := in
		after.Resources.Memory = max(after.Resources.Memory, int64(d.Set.Memory))
		after.Resources.NoLimits = true
		if err := p.Violation(after, Level{d.Level, d.Strength}, d.Emulated); err != nil {
			t.Fatalf("%v: %+v %+v", err, d, in)
		}
		// More isolation is never refused where less was given.
		if !d.Emulated {
			for _, b := range in.Backends {
				if b.Levels[0].Strength > d.Strength && (!b.Emulated || p.AllowEmulation) {
					more := in
					more.Isolation = b.Levels[0].Name
					if _, err := p.Decide(more); err != nil {
						t.Fatalf("more was refused: %v", err)
					}
				}
			}
		}
	}
	if decided < 2000 || denied < 2000 {
		t.Errorf("%d decided, %d denied: the questions are one-sided", decided, denied)
	}
}

func TestCases(t *testing.T) {
	p := parse(t, tenancy+"rules: [{name: a, match: {tenant: seven}, level: vm}]")
	c, err := ParseCases([]byte("cases:\n- {name: one, as: 'uid:7', run: x, want: vm, rule: a}\n- {name: two, as: 'cert:ci-1', run: x, want: denied}\n- {name: three, run: x, want: allowed, says: default}"))
	if err != nil {
		t.Fatal(err)
	}
	var got []bool
	for i := range c.Cases {
		got = append(got, p.Judge(&c.Cases[i], Input{OS: "linux", Backends: c.Backends()}).Pass)
	}
	if !slices.Equal(got, []bool{true, false, true}) {
		t.Error(got)
	}
	for file, want := range map[string]string{
		"": "no cases", "cases:\n- {name: a}": "line 2", "cases:\n- {name: a, run: x}": "want is missing", "cases:\n- {name: a, run: x, want: vm, as: bob}": `"bob" is no client`,
		"cases:\n- {nme: a}": `there is no key "nme"`,
	} {
		if _, err := ParseCases([]byte(file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", file, err)
		}
	}
}

func FuzzCases(f *testing.F) {
	f.Add([]byte("cases:\n- {name: one, as: 'uid:7', run: x, want: vm, rule: a}"))
	p := parse(f, tenancy)
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseCases(b); err == nil {
			for i := range c.Cases {
				p.Judge(&c.Cases[i], Input{Backends: c.Backends()})
			}
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	file := tenancy + "rules:\n"
	for i := range 50 {
		file += fmt.Sprintf("- {name: r%d, match: {tenant: t%d, image: ['reg.example/*']}}\n", i, i)
	}
	p := parse(b, file)
	in := Input{OS: "linux", Backends: []Backend{process, vm}, Names: []string{"docker.io/library/debian:12"}}
	in.Identity, _ = p.Identify(uid7)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Decide(in); err != nil {
			b.Fatal(err)
		}
	}
}

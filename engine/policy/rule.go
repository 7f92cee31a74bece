package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caisson-engine/caisson/engine/identity"
)

// Rule is about the containers that it matches. What it leaves out it does not
// restrict, but for options: without Allow an admin may use all of them, a
// tenant none; with it everybody may use what it lists.
type Rule struct {
	Name     string `yaml:"name"`
	Match    Match  `yaml:"match"`
	Deny     Deny   `yaml:"deny"`
	Level    string `yaml:"level"` // the least
	Allow    *Allow `yaml:"allow"`
	Limits   Limits `yaml:"limits"`   // the most that a container may have
	Defaults Limits `yaml:"defaults"` // of containers that ask for nothing
}

// Match says which containers a rule is about: everything that is given must
// hold. Of several values of one key one must match, of Label all.
type Match struct {
	Tenant   List  `yaml:"tenant"` // glob; admins are called as their client is: uid:0
	UID      []int `yaml:"uid"`
	GID      []int `yaml:"gid"`
	Cert     List  `yaml:"cert"`     // glob over the common name
	Image    List  `yaml:"image"`    // glob over the full name
	Digest   List  `yaml:"digest"`   // of index, manifest or config
	Registry List  `yaml:"registry"` // glob over the registry's host[:port]
	Label    List  `yaml:"label"`    // key or key=value of the container, all of them
	Network  List  `yaml:"network"`  // bridge, host, none, container or a network's name; glob
	Requests List  `yaml:"requests"` // options that it asks for: keys of allow
}

// Limits are amounts of one container; zero leaves it open.
type Limits struct {
	Memory Bytes   `yaml:"memory"`
	CPUs   float64 `yaml:"cpus"`
	Pids   int64   `yaml:"pids"`
}

// Allow lists the options that may be used.
type Allow struct {
	Privileged    bool `yaml:"privileged"`
	HostNetwork   bool `yaml:"host_network"`
	HostPid       bool `yaml:"host_pid"`
	HostIpc       bool `yaml:"host_ipc"`
	HostUts       bool `yaml:"host_uts"`
	HostUserns    bool `yaml:"host_userns"`
	HostCgroupns  bool `yaml:"host_cgroupns"`
	HostPaths     List `yaml:"host_paths"`   // exact paths, :ro for reading only
	Devices       List `yaml:"devices"`      // glob
	Capabilities  List `yaml:"capabilities"` // names, ALL
	Seccomp       bool `yaml:"seccomp_unconfined"`
	Apparmor      bool `yaml:"apparmor_unconfined"`
	SystemPaths   bool `yaml:"system_paths"`
	NewPrivileges bool `yaml:"new_privileges"`
	Cgroups       bool `yaml:"writable_cgroups"`
	CgroupParent  bool `yaml:"cgroup_parent"`
	HostPorts     List `yaml:"host_ports"` // below 1024: numbers or ranges
	SharedMounts  bool `yaml:"shared_mounts"`
	Oom           bool `yaml:"oom"`
	Realtime      bool `yaml:"realtime"`
	Annotations   List `yaml:"annotations"` // glob over keys
}

// complete checks a rule and puts its names into their one form. It returns the
// key that is wrong, and why.
func (r *Rule) complete() (key []any, what string) {
	r.Level = Canonical(r.Level)
	for i := range r.Match.Image {
		r.Match.Image[i] = fullPattern(r.Match.Image[i])
	}
	for i, d := range r.Match.Digest {
		if !digestRE().MatchString(d) {
			return []any{"match", "digest", i}, fmt.Sprintf("%q is no digest: want sha256: and 64 hex digits", d)
		}
	}
	for i, l := range r.Match.Label {
		if strings.HasPrefix(l, "=") || l == "" {
			return []any{"match", "label", i}, fmt.Sprintf("label %q: want key or key=value", l)
		}
	}
	for i, q := range r.Match.Requests {
		if _, ok := options[q]; !ok {
			return []any{"match", "requests", i}, fmt.Sprintf("there is no option %q: want one of %s", q, strings.Join(OptionNames(), ", "))
		}
	}
	for _, m := range []struct {
		key   string
		lists []List
	}{
		{"tenant", []List{r.Match.Tenant}}, {"cert", []List{r.Match.Cert}}, {"image", []List{r.Match.Image}},
		{"registry", []List{r.Match.Registry}}, {"network", []List{r.Match.Network}},
	} {
		if slices.Contains(m.lists[0], "") {
			return []any{"match", m.key}, "an empty text matches nothing"
		}
	}
	for key, l := range map[string]Limits{"limits": r.Limits, "defaults": r.Defaults} {
		if l.CPUs < 0 || l.Pids < 0 {
			return []any{key}, "a limit cannot be negative"
		}
	}
	for _, p := range []struct {
		name       string
		def, limit float64
	}{
		{"memory", float64(r.Defaults.Memory), float64(r.Limits.Memory)},
		{"cpus", r.Defaults.CPUs, r.Limits.CPUs},
		{"pids", float64(r.Defaults.Pids), float64(r.Limits.Pids)},
	} {
		if p.limit > 0 && p.def > p.limit {
			return []any{"defaults", p.name}, "the default of " + p.name + " is more than its limit"
		}
	}
	if r.Allow != nil {
		if r.Deny.Yes {
			return []any{"allow"}, "a rule that denies allows nothing: leave one of the two out"
		}
		return r.Allow.complete()
	}
	return nil, ""
}

// everything says that a match leaves nothing out.
func (m *Match) everything() bool {
	return len(m.Tenant)+len(m.UID)+len(m.GID)+len(m.Cert)+len(m.Image)+len(m.Digest)+len(m.Registry)+len(m.Label)+len(m.Network)+len(m.Requests) == 0
}

// onlyTheClientsWord says that a client can bring about or avoid the match at will.
func (m *Match) onlyTheClientsWord() bool {
	open := func(l List) bool { return len(l) == 0 || slices.Contains(l, "*") }
	return open(m.Tenant) && open(m.Cert) && open(m.Image) && open(m.Registry) && len(m.UID)+len(m.GID)+len(m.Digest) == 0 &&
		len(m.Label)+len(m.Network) > 0
}

func (m *Match) fits(in *Input) bool {
	id := in.Identity
	if len(m.Tenant) > 0 && !anyGlob(m.Tenant, id.Tenant) ||
		len(m.UID) > 0 && (id.UID < 0 || !slices.Contains(m.UID, id.UID)) ||
		len(m.GID) > 0 && !slices.ContainsFunc(m.GID, id.InGroup) ||
		len(m.Cert) > 0 && (id.Common == "" || !anyGlob(m.Cert, id.Common)) ||
		len(m.Digest) > 0 && !slices.ContainsFunc(m.Digest, func(d string) bool { return slices.Contains(in.Digests, d) }) ||
		len(m.Image) > 0 && !m.named(in.Names) ||
		len(m.Registry) > 0 && !slices.Contains(m.Registry, "*") && !slices.ContainsFunc(in.Names, func(n string) bool { return anyGlob(m.Registry, registryOf(n)) }) ||
		len(m.Network) > 0 && !anyGlob(m.Network, in.Network) {
		return false
	}
	for _, l := range m.Label {
		k, v, withValue := strings.Cut(l, "=")
		if have, ok := in.Labels[k]; !ok || withValue && have != v {
			return false
		}
	}
	return len(m.Requests) == 0 || slices.ContainsFunc(in.Asks, func(a Ask) bool { return slices.Contains(m.Requests, a.Option) })
}

// named tells whether a name that can be trusted matches. * also matches an
// image that has none.
func (m *Match) named(names []string) bool {
	return slices.Contains(m.Image, "*") || slices.ContainsFunc(names, func(n string) bool { return imageGlob(m.Image, n) })
}

// match is the first rule that fits, nil if none does.
func (p *Policy) match(in *Input) *Rule {
	for i := range p.Rules {
		if p.Rules[i].Match.fits(in) {
			return &p.Rules[i]
		}
	}
	return nil
}

// who is a client as messages name it.
func who(id identity.Identity) string {
	if n := id.Name(); n != id.Tenant {
		return fmt.Sprintf("tenant %s (%s)", id.Tenant, n)
	}
	return "tenant " + id.Tenant
}

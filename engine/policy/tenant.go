package policy

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/identity"
)

// Who is a set of clients: any of what is listed.
type Who struct {
	UIDs  []int `yaml:"uids"`  // unix peers by user
	GIDs  []int `yaml:"gids"`  // unix peers by group, first or supplementary
	Certs List  `yaml:"certs"` // TLS clients by their certificate's common name; a glob
}

func (w Who) empty() bool { return len(w.UIDs)+len(w.GIDs)+len(w.Certs) == 0 }

func (w Who) has(id identity.Identity) bool {
	return id.UID >= 0 && slices.Contains(w.UIDs, id.UID) ||
		slices.ContainsFunc(w.GIDs, id.InGroup) ||
		id.Common != "" && anyGlob(w.Certs, id.Common)
}

// Tenant is a name for clients that share what they make.
type Tenant struct {
	Name  string `yaml:"name"`
	Who   `yaml:",inline"`
	Quota Quota `yaml:"quota"`
	// Registries are those that it may pull from, push to, log in to and search;
	// globs. None given: all but this host itself.
	Registries List `yaml:"registries"`
}

// Others is what holds for clients that are no admin and of no tenant.
type Others struct {
	Deny       Deny  `yaml:"deny"`
	Quota      Quota `yaml:"quota"` // of each
	Registries List  `yaml:"registries"`
}

// Quota bounds what the containers of one tenant may have in sum, those that do
// not run included, and what all that it has takes on disk. Zero is no bound.
type Quota struct {
	Containers     int     `yaml:"containers" json:",omitempty"`
	Memory         Bytes   `yaml:"memory" json:",omitempty"`
	CPUs           float64 `yaml:"cpus" json:",omitempty"`
	Pids           int64   `yaml:"pids" json:",omitempty"`
	PublishedPorts int     `yaml:"published_ports" json:",omitempty"`
	// Disk is what images, writable layers and volumes take.
	Disk     Bytes `yaml:"disk" json:",omitempty"`
	Networks int   `yaml:"networks" json:",omitempty"` // that it made
}

func (q Quota) check() string {
	if q.Containers < 0 || q.CPUs < 0 || q.Pids < 0 || q.PublishedPorts < 0 || q.Networks < 0 {
		return "a quota cannot be negative"
	}
	return ""
}

// Zero tells that there is no bound at all.
func (q Quota) Zero() bool { return q == Quota{} }

// Add is the sum of two amounts.
func (q Quota) Add(o Quota) Quota {
	return Quota{q.Containers + o.Containers, q.Memory + o.Memory, q.CPUs + o.CPUs, q.Pids + o.Pids, q.PublishedPorts + o.PublishedPorts, q.Disk + o.Disk, q.Networks + o.Networks}
}

// slack forgives sums of processors what binary fractions add.
const slack = 1e-9

// Admit says whether one more container, that needs more, fits beside what a
// tenant has. One without a limit of its own does not fit under a quota of that.
func (q Quota) Admit(tenant string, have, more Quota) error {
	over := func(what, flag string, limit, used, asked any) error {
		return refusal("quota", "policy: quota of tenant %s: %s: %v allowed, %v in use, %v asked for: remove containers, ask for less%s, or have the host's owner raise the quota: %w",
			tenant, what, limit, used, asked, flag, errdefs.ErrPermissionDenied)
	}
	unbounded := func(what, flag string) error {
		return refusal("quota", "policy: quota of tenant %s: its %s is counted, so every container must have a limit: give %s: %w", tenant, what, flag, errdefs.ErrPermissionDenied)
	}
	sum := have.Add(more)
	switch {
	case q.Containers > 0 && sum.Containers > q.Containers:
		return over("containers", "", q.Containers, have.Containers, more.Containers)
	case q.Memory > 0 && more.Containers > 0 && more.Memory <= 0:
		return unbounded("memory", "--memory")
	case q.Memory > 0 && sum.Memory > q.Memory:
		return over("memory", " (--memory)", q.Memory, have.Memory, more.Memory)
	case q.CPUs > 0 && more.Containers > 0 && more.CPUs <= 0:
		return unbounded("processor time", "--cpus")
	case q.CPUs > 0 && sum.CPUs > q.CPUs+slack:
		return over("cpus", " (--cpus)", q.CPUs, have.CPUs, more.CPUs)
	case q.Pids > 0 && more.Containers > 0 && more.Pids <= 0:
		return unbounded("processes", "--pids-limit")
	case q.Pids > 0 && sum.Pids > q.Pids:
		return over("processes", " (--pids-limit)", q.Pids, have.Pids, more.Pids)
	case q.PublishedPorts > 0 && sum.PublishedPorts > q.PublishedPorts:
		return over("published ports", "", q.PublishedPorts, have.PublishedPorts, more.PublishedPorts)
	case q.Disk > 0 && (have.Disk >= q.Disk || sum.Disk > q.Disk):
		return refusal("quota", "policy: quota of tenant %s: disk: %v allowed, %v in use%s: remove images, containers or volumes, or have the host's owner raise the quota: %w",
			tenant, q.Disk, have.Disk, askedDisk(more.Disk), errdefs.ErrPermissionDenied)
	}
	return nil
}

// askedDisk says how much more was asked for, where that is known.
func askedDisk(b Bytes) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf(", %v asked for", b)
}

// AdmitNetwork says whether one more network fits beside those that a tenant has.
func (q Quota) AdmitNetwork(tenant string, have int) error {
	if q.Networks == 0 || have < q.Networks {
		return nil
	}
	return refusal("quota", "policy: quota of tenant %s: networks: %d allowed, %d in use: remove some, or have the host's owner raise the quota: %w",
		tenant, q.Networks, have, errdefs.ErrPermissionDenied)
}

// Tenancy tells whether the file knows anything of who clients are. If not, all
// are admins.
func (p *Policy) Tenancy() bool { return p.Admins != nil || p.Tenants != nil || p.Others != nil }

// self is the engine's own user: who can be it can change the engine.
var self = os.Geteuid()

// Identify says what an authenticated client is here: an admin, or of a tenant.
// PermissionDenied if it is nobody.
func (p *Policy) Identify(id identity.Identity) (identity.Identity, error) {
	id.Admin = id.Admin || !p.Tenancy() || id.UID >= 0 && (id.UID == 0 || id.UID == self) || p.Admins != nil && p.Admins.has(id)
	if id.Admin {
		return id, nil
	}
	for i := range p.Tenants {
		if t := &p.Tenants[i]; t.has(id) {
			id.Tenant = t.Name
			return id, nil
		}
	}
	if p.Others != nil && p.Others.Deny.Yes {
		why := ""
		if p.Others.Deny.Why != "" {
			why = ": " + p.Others.Deny.Why
		}
		return id, refusal("others", "policy: others are denied, and %s is of no tenant%s: ask the host's owner to add it to one: %w", id.Tenant, why, errdefs.ErrPermissionDenied)
	}
	if identity.Dir(id.Tenant) == "" {
		return id, refusal("others", "policy: the name %.40q… is too long for a tenant: give it one in the policy: %w", id.Tenant, errdefs.ErrPermissionDenied)
	}
	return id, nil
}

// QuotaOf is what a tenant may have.
func (p *Policy) QuotaOf(tenant string) Quota {
	for i := range p.Tenants {
		if p.Tenants[i].Name == tenant {
			return p.Tenants[i].Quota
		}
	}
	if p.Others != nil {
		return p.Others.Quota
	}
	return Quota{}
}

// Shares tells whether the host's owner lets tenants use an image of this name.
func (p *Policy) Shares(fullName string) bool { return imageGlob(p.SharedImages, fullName) }

// Registry says whether a client may have the engine speak to a registry. What
// listens on this host itself is not for tenants unless they are told so.
func (p *Policy) Registry(id identity.Identity, host string) error {
	if id.Admin {
		return nil
	}
	var list List
	if i := slices.IndexFunc(p.Tenants, func(t Tenant) bool { return t.Name == id.Tenant }); i >= 0 {
		list = p.Tenants[i].Registries
	} else if p.Others != nil {
		list = p.Others.Registries
	}
	if list == nil && !local(host) || anyGlob(list, host) {
		return nil
	}
	return refusal("registries", "policy: %s may not use registry %s: use another, or ask the host's owner to add it to its registries: %w", who(id), host, errdefs.ErrPermissionDenied)
}

// local tells that a registry's host[:port] is this host by its own words.
func local(host string) bool {
	name := strings.ToLower(host)
	if h, _, err := net.SplitHostPort(name); err == nil {
		name = h
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && (a.Unmap().IsLoopback() || a.Unmap().IsLinkLocalUnicast() || a.IsUnspecified())
}

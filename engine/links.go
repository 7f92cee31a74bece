package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/network"
)

// Links are how containers on the default bridge, where no names are served,
// find others: lines of the hosts file and variables, made when the container
// starts.
type linked struct{ hosts, env []string }

// parseLink reads name:alias, as a client writes it or as inspect shows it.
func parseLink(s string) (name, alias string) {
	name, alias, has := strings.Cut(s, ":")
	if !has {
		alias = name
	}
	name, alias = strings.TrimPrefix(name, "/"), strings.TrimPrefix(alias, "/")
	return name, alias[strings.LastIndexByte(alias, '/')+1:]
}

// links finds the containers that one is linked to.
func (e *Engine) links(rec *container.Record) (l linked, err error) {
	if !rec.Host.NetworkMode.IsBridge() {
		return l, nil
	}
	for _, s := range rec.Host.Links {
		name, alias := parseLink(s)
		who := identity.Identity{Tenant: rec.Tenant, Admin: rec.Tenant == ""}
		c, err := e.ctrs.Find(who, name)
		if err != nil {
			return l, fmt.Errorf("could not get container for %s: %w", name, err)
		}
		other, st := c.view()
		i := -1
		if st.Network != nil && st.State.Alive() {
			i = slices.IndexFunc(st.Network.Endpoints, func(ep network.Endpoint) bool { return ep.Network == apinetwork.NetworkBridge })
		}
		if i < 0 {
			return l, fmt.Errorf("Cannot link to a non running container: /%s AS /%s/%s: %w", other.Name, rec.Name, alias, errdefs.ErrConflict) //nolint:staticcheck // Docker's words
		}
		addr := st.Network.Endpoints[i].IPv4.Addr().String()
		names := []string{alias}
		for _, n := range []string{other.Config.Hostname, other.Name} {
			if n != "" && !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
		for _, n := range names {
			l.hosts = append(l.hosts, n+":"+addr)
		}
		l.env = append(l.env, linkEnv(rec.Name, alias, addr, other)...)
	}
	return l, nil
}

// linkEnv are the variables that tell of a linked container.
func linkEnv(name, alias, addr string, other *container.Record) []string {
	prefix := strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(alias))
	env := []string{fmt.Sprintf("%s_NAME=/%s/%s", prefix, name, alias)}
	var ports []apinetwork.Port
	for p := range other.Config.ExposedPorts {
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b apinetwork.Port) int {
		return cmp.Or(cmp.Compare(a.Num(), b.Num()), -cmp.Compare(a.Proto(), b.Proto()))
	})
	for i, p := range ports {
		url := fmt.Sprintf("%s://%s:%d", p.Proto(), addr, p.Num())
		if i == 0 {
			env = append(env, prefix+"_PORT="+url)
		}
		key := fmt.Sprintf("%s_PORT_%d_%s", prefix, p.Num(), strings.ToUpper(string(p.Proto())))
		env = append(env, key+"="+url, key+"_ADDR="+addr, fmt.Sprintf("%s_PORT=%d", key, p.Num()), fmt.Sprintf("%s_PROTO=%s", key, p.Proto()))
	}
	for _, v := range other.Config.Env {
		if k, _, _ := strings.Cut(v, "="); k != "PATH" && k != "HOME" {
			env = append(env, prefix+"_ENV_"+v)
		}
	}
	return env
}

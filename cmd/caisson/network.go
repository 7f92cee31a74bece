package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/engine/client"
)

var networkCreateCommand = command{
	name:  "create",
	args:  "[OPTIONS] NETWORK",
	short: "Create a network",
	examples: []string{
		"network create front # A bridge on which containers find each other by name",
		"network create --internal --subnet 10.9.0.0/24 back # Without a way out",
		"network create --ipv6 both # With IPv6, too",
		"network create -d macvlan -o parent=eth0 --subnet 192.0.2.0/24 lan # On the host's own link",
	},
	min:   1,
	max:   1,
	flags: map[string]completer{"driver": completeWords("bridge", "ipvlan", "macvlan")},
	setup: func(a *app, f *pflag.FlagSet) action {
		var r client.CreateNetworkRequest
		var aux, driverOpts, ipamOpts opts.Map
		var labels opts.List
		var subnets, ranges, gateways []string
		var ipamDriver, from string
		var ipv4, ipv6 bool
		f.BoolVar(&r.Attachable, "attachable", false, "Enable manual container attachment")
		f.Var(&aux, "aux-address", "Auxiliary IPv4 or IPv6 addresses used by Network driver")
		f.StringVar(&from, "config-from", "", "The network from which to copy the configuration")
		f.BoolVar(&r.ConfigOnly, "config-only", false, "Create a configuration only network")
		f.StringVarP(&r.Driver, "driver", "d", "bridge", "Driver to manage the Network")
		f.StringSliceVar(&gateways, "gateway", nil, "IPv4 or IPv6 Gateway for the master subnet")
		f.BoolVar(&r.Ingress, "ingress", false, "Create swarm routing-mesh network")
		f.BoolVar(&r.Internal, "internal", false, "Restrict external access to the network")
		f.StringSliceVar(&ranges, "ip-range", nil, "Allocate container ip from a sub-range")
		f.StringVar(&ipamDriver, "ipam-driver", "default", "IP Address Management Driver")
		f.Var(&ipamOpts, "ipam-opt", "Set IPAM driver specific options")
		f.BoolVar(&ipv4, "ipv4", true, "Enable or disable IPv4 address assignment")
		f.BoolVar(&ipv6, "ipv6", false, "Enable or disable IPv6 address assignment")
		f.Var(&labels, "label", "Set metadata on a network")
		f.VarP(&driverOpts, "opt", "o", "Set driver specific options")
		f.StringVar(&r.Scope, "scope", "", "Control the network's scope")
		f.StringSliceVar(&subnets, "subnet", nil, "Subnet in CIDR format that represents a network segment")
		return func(ctx context.Context, args []string) error {
			r.Name = args[0]
			if f.Changed("ipv4") {
				r.EnableIPv4 = &ipv4
			}
			if f.Changed("ipv6") {
				r.EnableIPv6 = &ipv6
			}
			if from != "" {
				r.ConfigFrom = &client.NetworkConfigFrom{Network: from}
			}
			config, err := subnetsOf(subnets, ranges, gateways, aux.Values)
			if err != nil {
				return err
			}
			r.IPAM = &client.IPAM{Driver: ipamDriver, Options: ipamOpts.Values, Config: config}
			r.Options = driverOpts.Values
			for _, l := range labels.Values {
				if r.Labels == nil {
					r.Labels = map[string]string{}
				}
				k, v, _ := strings.Cut(l, "=")
				r.Labels[k] = v
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			id, warning, err := api.CreateNetwork(ctx, r)
			if err != nil {
				return err
			}
			if warning != "" {
				fmt.Fprintln(a.err, "WARNING:", warning)
			}
			fmt.Fprintln(a.out, id)
			return nil
		}
	},
}

// subnetsOf brings ranges, gateways and auxiliary addresses to the subnets that
// they are in.
func subnetsOf(subnets, ranges, gateways []string, aux map[string]string) ([]client.IPAMConfig, error) {
	if len(subnets) < len(ranges) || len(subnets) < len(gateways) {
		return nil, errors.New("every ip-range or gateway must have a corresponding subnet")
	}
	config := []client.IPAMConfig{}
	var prefixes []netip.Prefix
	for _, s := range subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("invalid subnet %s: %w", s, err)
		}
		if slices.ContainsFunc(prefixes, p.Overlaps) {
			return nil, errors.New("multiple overlapping subnet configuration is not supported")
		}
		prefixes = append(prefixes, p)
		config = append(config, client.IPAMConfig{Subnet: s})
	}
	of := func(value string) (*client.IPAMConfig, error) {
		addr, _, _ := strings.Cut(value, "/")
		a, err := netip.ParseAddr(addr)
		if err != nil {
			return nil, fmt.Errorf("invalid address %s: %w", value, err)
		}
		for i, p := range prefixes {
			if p.Contains(a) {
				return &config[i], nil
			}
		}
		return nil, fmt.Errorf("no matching subnet for %s", value)
	}
	for _, r := range ranges {
		c, err := of(r)
		switch {
		case err != nil:
			return nil, err
		case c.IPRange != "":
			return nil, fmt.Errorf("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", r, c.IPRange, c.Subnet)
		}
		c.IPRange = r
	}
	for _, g := range gateways {
		c, err := of(g)
		switch {
		case err != nil:
			return nil, err
		case c.Gateway != "":
			return nil, fmt.Errorf("cannot configure multiple gateways (%s, %s) for the same subnet (%s)", g, c.Gateway, c.Subnet)
		}
		c.Gateway = g
	}
	for name, v := range aux {
		c, err := of(v)
		if err != nil {
			return nil, err
		}
		if c.AuxAddress == nil {
			c.AuxAddress = map[string]string{}
		}
		c.AuxAddress[name] = v
	}
	return config, nil
}

var networkLsCommand = command{
	name:    "ls",
	aliases: []string{"list"},
	args:    "[OPTIONS]",
	short:   "List networks",
	examples: []string{
		"network ls # All that there are",
		"network ls -q --filter type=custom # Ids of those that were made",
	},
	flags: map[string]completer{"filter": completeWords("dangling=", "driver=", "id=", "label=", "name=", "scope=", "type=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		var noTrunc, quiet bool
		var filter opts.Filter
		tmpl := formatFlag(f)
		f.VarP(&filter, "filter", "f", `Provide filter values (e.g. "driver=bridge")`)
		f.BoolVar(&noTrunc, "no-trunc", false, "Do not truncate the output")
		f.BoolVarP(&quiet, "quiet", "q", false, "Only display network IDs")
		return func(ctx context.Context, _ []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			list, err := api.Networks(ctx, filter.Values)
			if err != nil {
				return err
			}
			slices.SortFunc(list, func(a, b client.Network) int { return strings.Compare(a.Name, b.Name) })
			var rows []networkRow
			for _, n := range list {
				rows = append(rows, newNetworkRow(n, !noTrunc))
			}
			return format.Write(a.out, networkList, *tmpl, quiet, rows)
		}
	},
}

var networkList = format.List{
	Table:   `{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}`,
	Quiet:   `{{.ID}}`,
	Raw:     "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n",
	Headers: format.Headers{"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6", "Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT"},
}

// networkRow is a network as templates see it.
type networkRow struct {
	CreatedAt, Driver, ID, IPv4, IPv6, Internal, Labels, Name, Scope string

	labels map[string]string
}

// Label is one label's value.
func (r networkRow) Label(name string) string { return r.labels[name] }

func newNetworkRow(n client.Network, trunc bool) networkRow {
	r := networkRow{
		Driver: n.Driver, ID: n.ID, Name: n.Name, Scope: n.Scope, CreatedAt: n.Created, labels: n.Labels,
		IPv4: fmt.Sprint(n.EnableIPv4), IPv6: fmt.Sprint(n.EnableIPv6), Internal: fmt.Sprint(n.Internal),
	}
	if t, err := time.Parse(time.RFC3339Nano, n.Created); err == nil {
		r.CreatedAt = t.String()
	}
	if trunc {
		r.ID = format.ShortID(n.ID)
	}
	var labels []string
	for k, v := range n.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	r.Labels = strings.Join(labels, ",")
	return r
}

var networkInspectCommand = command{
	name:     "inspect",
	args:     "[OPTIONS] NETWORK [NETWORK...]",
	short:    "Display detailed information on one or more networks",
	examples: []string{"network inspect -f '{{range .Containers}}{{.Name}} {{end}}' front # Who is on it"},
	min:      1,
	max:      -1,
	complete: completeNetworks,
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := f.StringP("format", "f", "", objectFormatUsage)
		f.BoolP("verbose", "v", false, "Verbose output for diagnostics")
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return inspect(a.out, *tmpl, names, func(name string) (json.RawMessage, any, error) {
				raw, err := api.InspectNetwork(ctx, name)
				return raw, newNetworkObject(), err
			})
		}
	},
}

var networkRmCommand = command{
	name:     "rm",
	aliases:  []string{"remove"},
	args:     "[OPTIONS] NETWORK [NETWORK...]",
	short:    "Remove one or more networks",
	examples: []string{"network rm front back # Those that no running container is on"},
	min:      1,
	max:      -1,
	complete: completeNetworks,
	setup: func(a *app, f *pflag.FlagSet) action {
		force := f.BoolP("force", "f", false, "Do not error if the network does not exist")
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.each(ctx, names, func(ctx context.Context, name string) error {
				err := api.RemoveNetwork(ctx, name)
				if *force && errdefs.IsNotFound(err) {
					return &silentError{err}
				}
				return err
			})
		}
	},
}

var networkPruneCommand = command{
	name:     "prune",
	args:     "[OPTIONS]",
	short:    "Remove all unused networks",
	examples: []string{"network prune -f --filter until=24h # Those older than a day, without asking"},
	flags:    map[string]completer{"filter": completeWords("label=", "until=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		p := newPruner(a, f, `Provide filter values (e.g. "until=<timestamp>")`)
		return func(ctx context.Context, _ []string) error {
			if err := p.confirm("This will remove all custom networks not used by at least one container."); err != nil {
				return err
			}
			var err error
			if p.api, err = a.client(); err != nil {
				return err
			}
			_, err = p.networks(ctx)
			return err
		}
	},
}

var networkConnectCommand = command{
	name:  "connect",
	args:  "[OPTIONS] NETWORK CONTAINER",
	short: "Connect a container to a network",
	examples: []string{
		"network connect back web # From now on, if it runs",
		"network connect --alias db --ip 10.9.0.5 back postgres # Under a name and with an address of its own",
	},
	min:      2,
	max:      2,
	complete: completeMembership,
	setup: func(a *app, f *pflag.FlagSet) action {
		var e client.Endpoint
		var driverOpts, linkLocal []string
		var links opts.List
		var ip, ip6 net.IP
		f.StringSliceVar(&e.Aliases, "alias", nil, "Add network-scoped alias for the container")
		f.StringSliceVar(&driverOpts, "driver-opt", nil, "driver options for the network")
		f.IntVar(&e.GwPriority, "gw-priority", 0, "Highest gw-priority provides the default gateway. Accepts positive and negative values.")
		f.IPVar(&ip, "ip", nil, `IPv4 address (e.g., "172.30.100.104")`)
		f.IPVar(&ip6, "ip6", nil, `IPv6 address (e.g., "2001:db8::33")`)
		f.Var(&links, "link", "Add link to another container")
		f.StringSliceVar(&linkLocal, "link-local-ip", nil, "Add a link-local address for the container")
		return func(ctx context.Context, args []string) error {
			e.Links = links.Values
			for _, o := range driverOpts {
				k, v, ok := strings.Cut(o, "=")
				if !ok || k == "" {
					return errors.New("invalid key/value pair format in driver options")
				}
				if e.DriverOpts == nil {
					e.DriverOpts = map[string]string{}
				}
				e.DriverOpts[k] = v
			}
			if ip != nil || ip6 != nil || len(linkLocal) > 0 {
				e.IPAMConfig = &client.EndpointIPAM{LinkLocalIPs: linkLocal}
				if ip != nil {
					e.IPAMConfig.IPv4Address = ip.String()
				}
				if ip6 != nil {
					e.IPAMConfig.IPv6Address = ip6.String()
				}
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			return api.ConnectNetwork(ctx, args[0], args[1], &e)
		}
	},
}

var networkDisconnectCommand = command{
	name:     "disconnect",
	args:     "[OPTIONS] NETWORK CONTAINER",
	short:    "Disconnect a container from a network",
	examples: []string{"network disconnect back web # At once, if it runs"},
	min:      2,
	max:      2,
	complete: completeMembership,
	setup: func(a *app, f *pflag.FlagSet) action {
		force := f.BoolP("force", "f", false, "Force the container to disconnect from a network")
		return func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return api.DisconnectNetwork(ctx, args[0], args[1], *force)
		}
	},
}

// completeMembership proposes a network, then a container.
func completeMembership(ctx context.Context, a *app, args []string, prefix string) []string {
	switch len(args) {
	case 0:
		return completeNetworks(ctx, a, args, prefix)
	case 1:
		return completeContainers(ctx, a, nil, prefix)
	}
	return nil
}

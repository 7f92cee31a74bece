package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/refs"
	"github.com/caisson-engine/caisson/engine/client"
)

var psCommand = command{
	name:  "ps",
	args:  "[OPTIONS]",
	short: "List containers",
	examples: []string{
		"ps # What runs",
		"ps -a --filter status=exited # What ended",
		"ps --format '{{.Names}}: {{.Status}}' # Only what is asked for",
	},
	sameAs: []string{"container ls", "container list", "container ps", "ps"},
	flags:  map[string]completer{"filter": completeWords("ancestor=", "before=", "exited=", "expose=", "health=", "id=", "is-task=", "isolation=", "label=", "name=", "network=", "publish=", "since=", "status=", "volume=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		var all, quiet, noTrunc, latest, size bool
		var last int
		var filter opts.Filter
		tmpl := formatFlag(f)
		f.BoolVarP(&all, "all", "a", false, "Show all containers (default shows just running)")
		f.VarP(&filter, "filter", "f", "Filter output based on conditions provided")
		f.IntVarP(&last, "last", "n", -1, "Show n last created containers (includes all states)")
		f.BoolVarP(&latest, "latest", "l", false, "Show the latest created container (includes all states)")
		f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
		f.BoolVarP(&quiet, "quiet", "q", false, "Only display container IDs")
		f.BoolVarP(&size, "size", "s", false, "Display total file sizes")
		return func(ctx context.Context, _ []string) error {
			if latest && last < 0 {
				last = 1
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			list, err := api.List(ctx, client.ListOptions{
				All: all, Limit: max(last, 0), Filters: filter.Values,
				Size: size || format.Uses(*tmpl, "Size"),
			})
			if err != nil {
				return err
			}
			rows := make([]containerRow, len(list))
			for i, c := range list {
				rows[i] = newContainerRow(c, !noTrunc)
			}
			l := containerList
			if size {
				l.Table += `\t{{.Size}}`
			}
			return format.Write(a.out, l, *tmpl, quiet, rows)
		}
	},
}

const formatUsage = `Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template`

func formatFlag(f *pflag.FlagSet) *string { return f.String("format", "", formatUsage) }

var containerList = format.List{
	Table: `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}`,
	Quiet: `{{.ID}}`,
	Raw: `container_id: {{.ID}}
image: {{.Image}}
command: {{.Command}}
created_at: {{.CreatedAt}}
state: {{- pad .State 1 0}}
status: {{- pad .Status 1 0}}
names: {{.Names}}
labels: {{- pad .Labels 1 0}}
ports: {{- pad .Ports 1 0}}
`,
	Headers: format.Headers{
		"ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
		"Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Names": "NAMES", "Labels": "LABELS",
		"Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
	},
}

// containerRow is a container as templates see it.
type containerRow struct {
	Command, CreatedAt, ID, Image, Labels, LocalVolumes, Mounts, Names, Networks string
	Ports, RunningFor, Size, State, Status                                       string
	Platform                                                                     *client.Platform

	labels map[string]string
}

// Label is one label's value.
func (r containerRow) Label(name string) string { return r.labels[name] }

func newContainerRow(c client.ContainerSummary, trunc bool) containerRow {
	created := time.Unix(c.Created, 0)
	r := containerRow{
		ID: c.ID, Image: imageName(c, trunc), Command: c.Command, CreatedAt: created.String(),
		RunningFor: units.HumanDuration(time.Since(created)) + " ago",
		Labels:     pairs(c.Labels), Names: names(c.Names, trunc), Ports: portList(c.Ports),
		State: c.State, Status: c.Status, Size: units.HumanSizeWithPrecision(float64(c.SizeRw), 3), labels: c.Labels,
	}
	if trunc {
		r.ID, r.Command = format.ShortID(c.ID), format.Ellipsis(c.Command, 20)
	}
	r.Command = strconv.Quote(r.Command)
	if c.SizeRootFs > 0 {
		r.Size += fmt.Sprintf(" (virtual %s)", units.HumanSizeWithPrecision(float64(c.SizeRootFs), 3))
	}
	var mounts []string
	local := 0
	for _, m := range c.Mounts {
		name := m.Name
		if name == "" {
			name = m.Source
		}
		if trunc {
			name = format.Ellipsis(name, 15)
		}
		mounts = append(mounts, name)
		if m.Driver == "local" {
			local++
		}
	}
	r.Mounts, r.LocalVolumes = strings.Join(mounts, ","), strconv.Itoa(local)
	if d := c.ImageManifestDescriptor; d != nil {
		r.Platform = d.Platform
	}
	nets := make([]string, 0, len(c.NetworkSettings.Networks))
	for n := range c.NetworkSettings.Networks {
		nets = append(nets, n)
	}
	slices.Sort(nets)
	r.Networks = strings.Join(nets, ",")
	return r
}

func imageName(c client.ContainerSummary, trunc bool) string {
	switch {
	case c.Image == "":
		return "<no image>"
	case !trunc:
		return c.Image
	case refs.IsID(c.Image):
		return format.ShortID(c.Image)
	}
	ref := refs.Parse(c.Image)
	if ref.Digest != "" {
		ref.Digest = ""
		return ref.String()
	}
	return c.Image
}

// names leaves out, when truncating, those that other containers' links give.
func names(list []string, trunc bool) string {
	var out []string
	for _, n := range list {
		n = strings.TrimPrefix(n, "/")
		if trunc && strings.Contains(n, "/") {
			continue
		}
		out = append(out, n)
		if trunc {
			break
		}
	}
	return strings.Join(out, ",")
}

func pairs(m map[string]string) string {
	out := make([]string, 0, len(m))
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// portList shows ports in order, neighbours that map to themselves as ranges.
func portList(ports []client.Port) string {
	slices.SortFunc(ports, func(a, b client.Port) int {
		for _, d := range []int{int(a.PrivatePort) - int(b.PrivatePort), strings.Compare(a.IP, b.IP), int(a.PublicPort) - int(b.PublicPort), strings.Compare(a.Type, b.Type)} {
			if d != 0 {
				return d
			}
		}
		return 0
	})
	type group struct {
		key         string
		first, last uint16
	}
	var groups []group
	var mapped []string
	for _, p := range ports {
		key := p.Type
		if p.IP != "" {
			if p.PublicPort != p.PrivatePort {
				mapped = append(mapped, fmt.Sprintf("%s->%d/%s", net.JoinHostPort(p.IP, strconv.Itoa(int(p.PublicPort))), p.PrivatePort, p.Type))
				continue
			}
			key = p.IP + "/" + p.Type
		}
		i := slices.IndexFunc(groups, func(g group) bool { return g.key == key && p.PrivatePort == g.last+1 })
		if i >= 0 {
			groups[i].last = p.PrivatePort
			continue
		}
		groups = append(groups, group{key, p.PrivatePort, p.PrivatePort})
	}
	var out []string
	for _, g := range groups {
		ports := strconv.Itoa(int(g.first))
		if g.last != g.first {
			ports += "-" + strconv.Itoa(int(g.last))
		}
		ip, proto, ok := strings.Cut(g.key, "/")
		if !ok {
			out = append(out, ports+"/"+g.key)
			continue
		}
		out = append(out, fmt.Sprintf("%s->%s/%s", net.JoinHostPort(ip, ports), ports, proto))
	}
	return strings.Join(append(out, mapped...), ", ")
}

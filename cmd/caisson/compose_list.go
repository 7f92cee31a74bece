package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/refs"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/when"
	"github.com/caisson-engine/caisson/engine/client"
)

var composePsCommand = command{
	name:  "ps",
	args:  "[OPTIONS] [SERVICE...]",
	short: "List containers",
	examples: []string{
		"compose ps # What of the project runs",
		"compose ps -a --format json # All of it, for programs",
	},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		var all, quiet, noTrunc, services bool
		var status []string
		var filter opts.Filter
		tmpl := formatFlag(f)
		f.BoolVarP(&all, "all", "a", false, "Show all stopped containers (including those created by the run command)")
		f.Var(&filter, "filter", "Filter services by a property (supported filters: status)")
		f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
		f.BoolVarP(&quiet, "quiet", "q", false, "Only display IDs")
		f.BoolVar(&services, "services", false, "Display services")
		f.StringArrayVar(&status, "status", nil, "Filter services by status. Values: [paused | restarting | removing | running | dead | created | exited]")
		return func(ctx context.Context, names []string) error {
			for key, values := range filter.Values {
				if key != "status" {
					return fmt.Errorf("unknown filter %s", key)
				}
				status = append(status, values...)
			}
			r, err := a.project(ctx, names...)
			if err != nil {
				return err
			}
			list, err := r.Of(ctx, names, all)
			if err != nil {
				return err
			}
			list = slices.DeleteFunc(list, func(c *compose.Container) bool {
				if len(status) > 0 {
					return !slices.Contains(status, c.State)
				}
				return !all && !c.Running()
			})
			if services {
				var out []string
				for _, c := range list {
					out = append(out, c.Service)
				}
				for _, s := range slices.Compact(out) {
					fmt.Fprintln(a.out, s)
				}
				return nil
			}
			rows := make([]composeRow, len(list))
			for i, c := range list {
				rows[i] = newComposeRow(c, !noTrunc && *tmpl != "json")
			}
			return format.Write(a.out, composeList, *tmpl, quiet, rows)
		}
	},
}

// composeRow is a project's container as templates see it.
type composeRow struct {
	Command, CreatedAt, ID, Image, Labels, LocalVolumes, Mounts, Name, Names, Networks string
	Ports, RunningFor, Service, Project, Size, State, Status, Health                   string
	ExitCode                                                                           int
	Publishers                                                                         []publisher

	labels map[string]string
}

// publisher is a port as docker compose shows it.
type publisher struct {
	URL           string
	TargetPort    uint16
	PublishedPort uint16
	Protocol      string
}

// Label is one label's value.
func (r composeRow) Label(name string) string { return r.labels[name] }

var composeList = format.List{
	Table: `{{.Name}}\t{{.Image}}\t{{.Command}}\t{{.Service}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}`,
	Quiet: `{{.ID}}`,
	Headers: format.Headers{
		"ID": "CONTAINER ID", "Name": "NAME", "Names": "NAME", "Image": "IMAGE", "Command": "COMMAND", "Service": "SERVICE", "CreatedAt": "CREATED AT",
		"RunningFor": "CREATED", "Status": "STATUS", "Ports": "PORTS", "State": "STATE", "Health": "HEALTH", "Project": "PROJECT", "ExitCode": "EXIT CODE",
		"Size": "SIZE", "Labels": "LABELS", "Mounts": "MOUNTS", "Networks": "NETWORKS", "LocalVolumes": "LOCAL VOLUMES",
	},
}

func newComposeRow(c *compose.Container, trunc bool) composeRow {
	b := newContainerRow(c.ContainerSummary, trunc)
	r := composeRow{
		Command: b.Command, CreatedAt: b.CreatedAt, ID: c.ID, Image: b.Image, Labels: b.Labels, LocalVolumes: b.LocalVolumes, Mounts: b.Mounts,
		Name: c.Name, Names: c.Name, Networks: b.Networks, Ports: b.Ports, RunningFor: b.RunningFor, Service: c.Service, Project: c.Labels[compose.ProjectLabel],
		Size: b.Size, State: b.State, Status: b.Status, labels: b.labels,
	}
	for _, h := range []string{"healthy", "unhealthy", "starting"} {
		if strings.Contains(c.Status, "("+h+")") || strings.Contains(c.Status, "(health: "+h+")") {
			r.Health = h
		}
	}
	_, _ = fmt.Sscanf(c.Status, "Exited (%d)", &r.ExitCode)
	for _, p := range c.Ports {
		r.Publishers = append(r.Publishers, publisher{URL: p.IP, TargetPort: p.PrivatePort, PublishedPort: p.PublicPort, Protocol: p.Type})
	}
	return r
}

var composeLogsCommand = command{
	name:  "logs",
	args:  "[OPTIONS] [SERVICE...]",
	short: "View output from containers",
	examples: []string{
		"compose logs -f --tail 20 web worker # Of two services, as it comes",
		"compose logs --no-log-prefix --since 10m db # As the program wrote it",
	},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		var o client.LogsOptions
		f.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
		index := indexFlag(f)
		noColor := f.Bool("no-color", false, "Produce monochrome output")
		noPrefix := f.Bool("no-log-prefix", false, "Don't print prefix in logs")
		f.StringVar(&o.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
		f.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs for each container")
		f.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
		f.StringVar(&o.Until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
		return func(ctx context.Context, services []string) error {
			now := time.Now()
			var err error
			if o.Since, err = when.Parse(o.Since, now); err != nil {
				return err
			}
			if o.Until, err = when.Parse(o.Until, now); err != nil {
				return err
			}
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			list, err := r.Of(ctx, services, len(services) == 0)
			if err != nil {
				return err
			}
			list = slices.DeleteFunc(list, func(c *compose.Container) bool { return *index > 0 && c.Number != *index })
			return r.Logs(ctx, a.printer(*noColor, *noPrefix), list, o)
		}
	},
}

var composeConfigCommand = command{
	name:  "config",
	args:  "[OPTIONS] [SERVICE...]",
	short: "Parse, resolve and render compose file in canonical format",
	examples: []string{
		"compose config # What the files come to with variables, profiles and includes",
		"compose config -q # Only whether they are right",
		"compose config --hash '*' # What decides whether containers are made anew",
	},
	max:      -1,
	complete: completeServices,
	flags:    map[string]completer{"format": completeWords("yaml", "json")},
	setup: func(a *app, f *pflag.FlagSet) action {
		var images, profiles, quiet, services, volumes, networks bool
		kind := f.String("format", "yaml", "Format the output. Values: [yaml | json]")
		hash := f.String("hash", "", `Print the service config hash, one per line. "*" is all services`)
		f.BoolVar(&images, "images", false, "Print the image names, one per line")
		f.BoolVar(&networks, "networks", false, "Print the network names, one per line")
		raw := f.Bool("no-interpolate", false, "Don't interpolate environment variables")
		output := f.StringP("output", "o", "", "Save to file (default to stdout)")
		f.BoolVar(&profiles, "profiles", false, "Print the profile names, one per line")
		f.BoolVarP(&quiet, "quiet", "q", false, "Only validate the configuration, don't print anything")
		f.BoolVar(&services, "services", false, "Print the service names, one per line")
		f.BoolVar(&volumes, "volumes", false, "Print the volume names, one per line")
		return func(ctx context.Context, names []string) error {
			if !quiet && !services && !volumes && !networks && !images && !profiles && *hash == "" {
				b, err := a.compose.Config(ctx, *kind, !*raw, names...)
				if err != nil {
					return err
				}
				return a.writeFile(*output, b)
			}
			p, err := a.compose.Load(ctx, true, names...)
			if err != nil || quiet {
				return err
			}
			var lines []string
			for _, s := range p.Select(names, false) {
				switch {
				case services:
					lines = append(lines, s.Name)
				case images:
					lines = append(lines, s.Image)
				case *hash == "*" || slices.Contains(strings.Split(*hash, ","), s.Name):
					lines = append(lines, s.Name+" "+s.Hash)
				}
			}
			switch {
			case volumes:
				lines = slices.Sorted(maps.Keys(p.Volumes))
			case networks:
				lines = slices.Sorted(maps.Keys(p.Networks))
			case profiles:
				lines = p.Profiles
			}
			var b bytes.Buffer
			for _, l := range lines {
				fmt.Fprintln(&b, l)
			}
			return a.writeFile(*output, b.Bytes())
		}
	},
}

// composeImageRow is a container's image as templates see it.
type composeImageRow struct{ ContainerName, Repository, Tag, ID, Size, Created string }

var composeImageList = format.List{
	Table: `{{.ContainerName}}\t{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.Size}}\t{{.Created}}`,
	Quiet: `{{.ID}}`,
	Headers: format.Headers{
		"ContainerName": "CONTAINER", "Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "Size": "SIZE", "Created": "CREATED",
	},
}

var composeImagesCommand = command{
	name:     "images",
	args:     "[OPTIONS] [SERVICE...]",
	short:    "List images used by the created containers",
	examples: []string{"compose images # Which image each container has"},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := formatFlag(f)
		quiet := f.BoolP("quiet", "q", false, "Only display IDs")
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			list, err := r.Of(ctx, services, true)
			if err != nil {
				return err
			}
			rows := make([]composeImageRow, len(list))
			for i, c := range list {
				ref := refs.Parse(c.Image)
				rows[i] = composeImageRow{ContainerName: c.Name, Repository: ref.Familiar(), Tag: ref.Version(), ID: format.ShortID(c.ImageID)}
				raw, err := r.API.ImageInspect(ctx, c.ImageID, "")
				if err != nil {
					continue // it may have been removed meanwhile
				}
				var img struct {
					Size    int64
					Created time.Time
				}
				if err := json.Unmarshal(raw, &img); err != nil {
					return err
				}
				rows[i].Size, rows[i].Created = units.HumanSizeWithPrecision(float64(img.Size), 3), units.HumanDuration(time.Since(img.Created))+" ago"
			}
			return format.Write(a.out, composeImageList, *tmpl, *quiet, rows)
		}
	},
}

// composeProjectRow is a project as templates see it.
type composeProjectRow struct{ Name, Status, ConfigFiles string }

var composeProjectList = format.List{
	Table:   `{{.Name}}\t{{.Status}}\t{{.ConfigFiles}}`,
	Quiet:   `{{.Name}}`,
	Headers: format.Headers{"Name": "NAME", "Status": "STATUS", "ConfigFiles": "CONFIG FILES"},
}

var composeLsCommand = command{
	name:     "ls",
	args:     "[OPTIONS]",
	short:    "List running compose projects",
	examples: []string{"compose ls -a # Also those that are stopped"},
	setup: func(a *app, f *pflag.FlagSet) action {
		all := f.BoolP("all", "a", false, "Show all stopped Compose projects")
		tmpl := formatFlag(f)
		quiet := f.BoolP("quiet", "q", false, "Only display project names")
		return func(ctx context.Context, _ []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			projects, err := compose.Projects(ctx, api, *all)
			if err != nil {
				return err
			}
			rows := make([]composeProjectRow, len(projects))
			for i, p := range projects {
				rows[i] = composeProjectRow{p.Name, p.Status, p.Files}
			}
			return format.Write(a.out, composeProjectList, *tmpl, *quiet, rows)
		}
	},
}

var composeTopCommand = command{
	name:     "top",
	args:     "[SERVICE...]",
	short:    "Display the running processes",
	examples: []string{"compose top # Of all containers of the project"},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			list, err := r.Of(ctx, services, true)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.out, 4, 1, 2, ' ', 0)
			first := true
			for _, c := range list {
				if !c.Running() {
					continue
				}
				t, err := r.API.Top(ctx, c.ID, "")
				if err != nil {
					return err
				}
				if first {
					fmt.Fprintln(w, strings.Join(append([]string{"SERVICE", "#"}, t.Titles...), "\t"))
					first = false
				}
				for _, p := range t.Processes {
					fmt.Fprintln(w, strings.Join(append([]string{c.Service, fmt.Sprint(c.Number)}, p...), "\t"))
				}
			}
			return w.Flush()
		}
	},
}

var composePortCommand = command{
	name:     "port",
	args:     "[OPTIONS] SERVICE PRIVATE_PORT",
	short:    "Print the public port for a port binding",
	examples: []string{"compose port --protocol udp dns 53 # Where it is on this host"},
	min:      2,
	max:      2,
	complete: completeFirst(completeServices),
	setup: func(a *app, f *pflag.FlagSet) action {
		index := indexFlag(f)
		protocol := f.String("protocol", "tcp", "tcp or udp")
		return func(ctx context.Context, args []string) error {
			r, err := a.project(ctx, args[0])
			if err != nil {
				return err
			}
			c, err := r.One(ctx, args[0], *index)
			if err != nil {
				return err
			}
			full, _, err := r.API.Inspect(ctx, c.ID, false)
			if err != nil {
				return err
			}
			bindings := full.NetworkSettings.Ports[args[1]+"/"+strings.ToLower(*protocol)]
			if len(bindings) == 0 {
				return fmt.Errorf("no port %s/%s for container %s", args[1], *protocol, c.Name)
			}
			fmt.Fprintln(a.out, hostPort(bindings[0]))
			return nil
		}
	},
}

var composeEventsCommand = command{
	name:     "events",
	args:     "[OPTIONS] [SERVICE...]",
	short:    "Receive real time events from containers",
	examples: []string{"compose events --json web # For programs"},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		asJSON := f.Bool("json", false, "Output events as a stream of json objects")
		since := f.String("since", "", "Show all events created since timestamp")
		return func(ctx context.Context, services []string) error {
			from, err := when.Parse(*since, time.Now())
			if err != nil {
				return err
			}
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			return r.Events(ctx, from, nil, func(e compose.Event) error {
				if len(services) > 0 && !slices.Contains(services, e.Container.Service) {
					return nil
				}
				if !*asJSON {
					_, err := fmt.Fprintf(a.out, "%s container %s %s (%s)\n", e.Time.Format("2006-01-02 15:04:05.000000"), e.Action, e.Container.ID, attributes(e.Raw))
					return err
				}
				return json.NewEncoder(a.out).Encode(map[string]any{
					"time": e.Time, "type": "container", "action": e.Action, "id": e.Container.ID, "service": e.Container.Service,
					"attributes": map[string]string{"name": e.Container.Name, "image": e.Raw.Actor.Attributes["image"]},
				})
			})
		}
	},
}

// attributes are an event's without the labels that tie it to its project.
func attributes(e client.Event) string {
	plain := maps.Clone(e.Actor.Attributes)
	maps.DeleteFunc(plain, func(k, _ string) bool { return strings.HasPrefix(k, "com.docker.compose.") })
	var out []string
	for _, k := range slices.Sorted(maps.Keys(plain)) {
		out = append(out, k+"="+plain[k])
	}
	return strings.Join(out, ", ")
}

var composeVersionCommand = command{
	name:     "version",
	args:     "[OPTIONS]",
	short:    "Show the Caisson Compose version information",
	examples: []string{"compose version --short # The version of docker compose that it behaves as"},
	setup: func(a *app, f *pflag.FlagSet) action {
		short := f.Bool("short", false, "Show only the version of docker compose that this behaves as")
		kind := f.StringP("format", "f", "pretty", "Format the output. Values: [pretty | json]")
		return func(context.Context, []string) error {
			switch {
			case *short:
				fmt.Fprintln(a.out, compose.Version)
			case *kind == "json":
				return json.NewEncoder(a.out).Encode(map[string]string{"version": "v" + compose.Version})
			case *kind != "pretty":
				return fmt.Errorf("invalid format %q: must be one of pretty, json", *kind)
			default:
				fmt.Fprintf(a.out, "Caisson Compose version %s (as Docker Compose v%s)\n", version, compose.Version)
			}
			return nil
		}
	},
}

var composeStatsCommand = command{
	name:     "stats",
	args:     "[OPTIONS] [SERVICE]",
	short:    "Display a live stream of container(s) resource usage statistics",
	examples: []string{"compose stats --no-stream # One look at the project"},
	max:      1,
	complete: completeFirst(completeServices),
	setup: func(a *app, f *pflag.FlagSet) action {
		stats := statsCommand.setup(a, f)
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			list, err := r.Of(ctx, services, true)
			if err != nil {
				return err
			}
			all, _ := f.GetBool("all")
			var ids []string
			for _, c := range list {
				if all || c.Running() {
					ids = append(ids, c.ID)
				}
			}
			if len(ids) == 0 {
				return errors.New("no container of the project runs")
			}
			return stats(ctx, ids)
		}
	},
}

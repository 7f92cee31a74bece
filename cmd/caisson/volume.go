package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/engine/client"
)

var volumeCommands = command{
	name: "volume", short: "Manage volumes",
	sub: []*command{
		&volumeCreateCommand, &volumeExportCommand, &volumeImportCommand, &volumeInspectCommand, &volumeLsCommand,
		&volumePruneCommand, &volumeRmCommand,
	},
}

var volumeCreateCommand = command{
	name:  "create",
	args:  "[OPTIONS] [VOLUME]",
	short: "Create a volume",
	long: "The options of the local driver are those of mount: type, device and o; it is mounted while\n" +
		"containers have it. Without a type, size bounds it where the data root has project quotas.",
	examples: []string{
		"volume create data # For `run -v data:/data`",
		"volume create -o type=tmpfs -o device=tmpfs -o o=size=100m,uid=1000 scratch # In memory",
		"volume create -o type=nfs -o device=:/export -o o=addr=nas,rw shared # From another host",
	},
	max:   1,
	flags: map[string]completer{"driver": completeWords("local"), "opt": completeWords("type=", "device=", "o=", "size=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		var r client.VolumeCreate
		var options opts.Map
		var labels opts.List
		f.StringVarP(&r.Driver, "driver", "d", "local", "Specify volume driver name")
		f.VarP(&options, "opt", "o", "Set driver specific options")
		f.Var(&labels, "label", "Set metadata for a volume")
		name := f.String("name", "", "Specify volume name")
		_ = f.MarkHidden("name") // an older way to say it
		return func(ctx context.Context, args []string) error {
			if r.Name = *name; len(args) > 0 {
				if r.Name != "" {
					return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
				}
				r.Name = args[0]
			}
			r.DriverOpts, r.Labels = options.Values, opts.ToMap(labels.Values)
			api, err := a.client()
			if err != nil {
				return err
			}
			v, err := api.CreateVolume(ctx, r)
			if err == nil {
				fmt.Fprintln(a.out, v.Name)
			}
			return err
		}
	},
}

var volumeExportCommand = command{
	name:     "export",
	args:     "[OPTIONS] VOLUME",
	short:    "Export what is in a volume as a tar archive",
	long:     "Files may change while it is read: stop what writes there for a backup that is of one moment.",
	examples: []string{"volume export data -o data.tar # A backup; `caisson volume import` brings it back"},
	min:      1,
	max:      1,
	complete: completeFirst(completeVolumes),
	setup: func(a *app, f *pflag.FlagSet) action {
		output := f.StringP("output", "o", "", "Write to a file, instead of STDOUT")
		return func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.writeOutput(*output, func() (io.ReadCloser, error) { return api.ExportVolume(ctx, args[0]) })
		}
	},
}

var volumeImportCommand = command{
	name:  "import",
	args:  "VOLUME file|-",
	short: "Fill an empty volume from a tar archive",
	long:  "The volume is made if there is none of that name. Owners and modes are the archive's.",
	examples: []string{
		"volume import data data.tar # What `caisson volume export` wrote",
		"volume export data | caisson -H other:2376 volume import data - # To another engine",
	},
	min: 2,
	max: 2,
	complete: func(ctx context.Context, a *app, args []string, prefix string) []string {
		if len(args) == 0 {
			return completeVolumes(ctx, a, args, prefix)
		}
		return []string{directiveFiles}
	},
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(ctx context.Context, args []string) error {
			in := io.NopCloser(a.in)
			if args[1] != "-" {
				f, err := os.Open(args[1])
				if err != nil {
					return err
				}
				in = f
			}
			defer in.Close()
			api, err := a.client()
			if err != nil {
				return err
			}
			return api.ImportVolume(ctx, args[0], in)
		}
	},
}

var volumeInspectCommand = command{
	name:     "inspect",
	args:     "[OPTIONS] VOLUME [VOLUME...]",
	short:    "Display detailed information on one or more volumes",
	examples: []string{"volume inspect -f '{{.Mountpoint}}' data # Where it is on the host"},
	min:      1,
	max:      -1,
	complete: completeVolumes,
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := f.StringP("format", "f", "", objectFormatUsage)
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return inspect(a.out, *tmpl, names, func(name string) (json.RawMessage, any, error) {
				raw, err := api.VolumeInspect(ctx, name)
				return raw, &client.Volume{}, err
			})
		}
	},
}

var volumeLsCommand = command{
	name:    "ls",
	aliases: []string{"list"},
	args:    "[OPTIONS]",
	short:   "List volumes",
	examples: []string{
		"volume ls # All of them",
		"volume ls -qf dangling=true # Names of those that no container has",
	},
	sameAs: []string{"volume ls", "volume list"},
	flags:  map[string]completer{"filter": completeWords("dangling=", "driver=", "label=", "name=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := formatFlag(f)
		var filter opts.Filter
		f.VarP(&filter, "filter", "f", `Provide filter values (e.g. "dangling=true")`)
		quiet := f.BoolP("quiet", "q", false, "Only display volume names")
		return func(ctx context.Context, _ []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			list, err := api.Volumes(ctx, filter.Values)
			if err != nil {
				return err
			}
			slices.SortFunc(list, func(a, b client.Volume) int { return strings.Compare(a.Name, b.Name) })
			var rows []volumeRow
			for _, v := range list {
				rows = append(rows, newVolumeRow(v))
			}
			return format.Write(a.out, volumeList, *tmpl, *quiet, rows)
		}
	},
}

var volumeList = format.List{
	Table: `{{.Driver}}\t{{.Name}}`,
	Quiet: `{{.Name}}`,
	Raw:   "name: {{.Name}}\ndriver: {{.Driver}}\n",
	Headers: format.Headers{
		"Name": "VOLUME NAME", "Driver": "DRIVER", "Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS",
		"Links": "LINKS", "Size": "SIZE", "Availability": "AVAILABILITY", "Group": "GROUP", "Status": "STATUS",
	},
}

// volumeRow is a volume as templates see it.
type volumeRow struct {
	Availability, Driver, Group, Labels, Links, Mountpoint, Name, Scope, Size, Status string

	labels map[string]string
}

// Label is the value of one label.
func (r volumeRow) Label(name string) string { return r.labels[name] }

func newVolumeRow(v client.Volume) volumeRow {
	const none = "N/A"
	r := volumeRow{
		Name: v.Name, Driver: v.Driver, Scope: v.Scope, Mountpoint: v.Mountpoint, Labels: pairs(v.Labels), labels: v.Labels,
		Availability: none, Group: none, Status: none, Links: none, Size: none,
	}
	if u := v.UsageData; u != nil {
		r.Links = fmt.Sprint(u.RefCount)
		if u.Size >= 0 {
			r.Size = units.HumanSize(float64(u.Size))
		}
	}
	return r
}

var volumePruneCommand = command{
	name:  "prune",
	args:  "[OPTIONS]",
	short: "Remove unused local volumes",
	examples: []string{
		"volume prune # Without a name that somebody chose",
		"volume prune -a --filter label!=keep # With names too, but for what is labelled so",
	},
	flags: map[string]completer{"filter": completeWords("label=", "label!=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		p := newPruner(a, f, `Provide filter values (e.g. "label=<label>")`)
		f.BoolVarP(&p.all, "all", "a", false, "Remove all unused volumes, not just anonymous ones")
		return func(ctx context.Context, _ []string) error {
			what := "This will remove anonymous local volumes not used by at least one container."
			if p.all {
				what = "This will remove all local volumes not used by at least one container."
			}
			if err := p.confirm(what); err != nil {
				return err
			}
			return p.run(ctx, p.volumes)
		}
	},
}

var volumeRmCommand = command{
	name:     "rm",
	aliases:  []string{"remove"},
	args:     "[OPTIONS] VOLUME [VOLUME...]",
	short:    "Remove one or more volumes",
	examples: []string{"volume rm data # With all that is in it; a container may not have it, running or not"},
	sameAs:   []string{"volume rm", "volume remove"},
	min:      1,
	max:      -1,
	complete: completeVolumes,
	setup: func(a *app, f *pflag.FlagSet) action {
		force := f.BoolP("force", "f", false, "Force the removal of one or more volumes")
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.each(ctx, names, func(ctx context.Context, n string) error { return api.RemoveVolume(ctx, n, *force) })
		}
	},
}

func completeVolumes(ctx context.Context, a *app, args []string, _ string) []string {
	api, err := a.client()
	if err != nil {
		return nil
	}
	list, err := api.Volumes(ctx, nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, v := range list {
		if !slices.Contains(args, v.Name) {
			out = append(out, v.Name)
		}
	}
	return out
}

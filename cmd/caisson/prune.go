package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/engine/client"
)

var containerPruneCommand = command{
	name:     "prune",
	args:     "[OPTIONS]",
	short:    "Remove all stopped containers",
	examples: []string{"container prune --filter until=24h # Those that ended more than a day ago"},
	flags:    map[string]completer{"filter": completeWords("label=", "until=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		p := newPruner(a, f, `Provide filter values (e.g. "until=<timestamp>")`)
		return func(ctx context.Context, _ []string) error {
			if err := p.confirm("This will remove all stopped containers."); err != nil {
				return err
			}
			return p.run(ctx, p.containers)
		}
	},
}

var imagePruneCommand = command{
	name:  "prune",
	args:  "[OPTIONS]",
	short: "Remove unused images",
	examples: []string{
		"image prune # Images without a name",
		"image prune -a --filter until=168h # All that no container uses and that are a week old",
	},
	flags: map[string]completer{"filter": completeWords("label=", "until=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		p := newPruner(a, f, `Provide filter values (e.g. "until=<timestamp>")`)
		f.BoolVarP(&p.all, "all", "a", false, "Remove all unused images, not just dangling ones")
		return func(ctx context.Context, _ []string) error {
			what := "This will remove all dangling images."
			if p.all {
				what = "This will remove all images without at least one container associated to them."
			}
			if err := p.confirm(what); err != nil {
				return err
			}
			return p.run(ctx, p.images)
		}
	},
}

var systemPruneCommand = command{
	name:  "prune",
	args:  "[OPTIONS]",
	short: "Remove unused data",
	examples: []string{
		"system prune # Stopped containers, unused networks and images without a name",
		"system prune -af # Also images that no container uses, without asking",
	},
	flags: map[string]completer{"filter": completeWords("label=", "until=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		p := newPruner(a, f, `Provide filter values (e.g. "label=<key>=<value>")`)
		f.BoolVarP(&p.all, "all", "a", false, "Remove all unused images not just dangling ones")
		volumes := f.Bool("volumes", false, "Prune anonymous volumes")
		return func(ctx context.Context, _ []string) error {
			what := []string{"This will remove:", "all stopped containers", "all networks not used by at least one container"}
			parts := []func(context.Context) (uint64, error){p.containers, p.networks}
			if *volumes {
				what = append(what, "all anonymous volumes not used by at least one container")
				parts = append(parts, p.anonymous)
			}
			if p.all {
				what = append(what, "all images without at least one container associated to them")
			} else {
				what = append(what, "all dangling images")
			}
			if err := p.confirm(strings.Join(what, "\n  - ") + "\n"); err != nil {
				return err
			}
			return p.run(ctx, append(parts, p.images)...)
		}
	},
}

// pruner is what the prune verbs share.
type pruner struct {
	app        *app
	api        *client.Client
	force, all bool
	filter     opts.Filter
}

func newPruner(a *app, f *pflag.FlagSet, filterUsage string) *pruner {
	p := &pruner{app: a}
	f.BoolVarP(&p.force, "force", "f", false, "Do not prompt for confirmation")
	f.Var(&p.filter, "filter", filterUsage)
	return p
}

// confirm asks unless that was declined.
func (p *pruner) confirm(what string) error {
	if p.force {
		return nil
	}
	if !p.app.yes("WARNING! " + what + "\nAre you sure you want to continue? [y/N] ") {
		return errors.New("prune has been cancelled")
	}
	return nil
}

// yes asks a question. Anything but yes is no.
func (a *app) yes(question string) bool {
	fmt.Fprint(a.out, question)
	answer, _ := bufio.NewReader(a.in).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

func (p *pruner) run(ctx context.Context, parts ...func(context.Context) (uint64, error)) error {
	var err error
	if p.api, err = p.app.client(); err != nil {
		return err
	}
	var total uint64
	for _, part := range parts {
		n, err := part(ctx)
		if err != nil {
			return err
		}
		total += n
	}
	fmt.Fprintln(p.app.out, "Total reclaimed space:", units.HumanSize(float64(total)))
	return nil
}

func (p *pruner) containers(ctx context.Context) (uint64, error) {
	r, err := p.api.PruneContainers(ctx, p.filter.Values)
	if err == nil && len(r.ContainersDeleted) > 0 {
		fmt.Fprintf(p.app.out, "Deleted Containers:\n%s\n\n", strings.Join(r.ContainersDeleted, "\n"))
	}
	return r.SpaceReclaimed, err
}

func (p *pruner) volumes(ctx context.Context) (uint64, error) {
	f := maps.Clone(p.filter.Values)
	if p.all {
		if f == nil {
			f = client.Filters{}
		}
		f["all"] = []string{"true"}
	}
	return p.pruneVolumes(ctx, f)
}

// anonymous prunes volumes without names, whatever else all is said of.
func (p *pruner) anonymous(ctx context.Context) (uint64, error) {
	return p.pruneVolumes(ctx, p.filter.Values)
}

func (p *pruner) pruneVolumes(ctx context.Context, f client.Filters) (uint64, error) {
	r, err := p.api.PruneVolumes(ctx, f)
	if err == nil && len(r.VolumesDeleted) > 0 {
		fmt.Fprintf(p.app.out, "Deleted Volumes:\n%s\n\n", strings.Join(r.VolumesDeleted, "\n"))
	}
	return r.SpaceReclaimed, err
}

func (p *pruner) networks(ctx context.Context) (uint64, error) {
	names, err := p.api.PruneNetworks(ctx, p.filter.Values)
	if err == nil && len(names) > 0 {
		fmt.Fprintf(p.app.out, "Deleted Networks:\n%s\n\n", strings.Join(names, "\n"))
	}
	return 0, err
}

func (p *pruner) images(ctx context.Context) (uint64, error) {
	f := client.Filters{"dangling": {fmt.Sprint(!p.all)}}
	for k, v := range p.filter.Values {
		f[k] = v
	}
	r, err := p.api.PruneImages(ctx, f)
	if err == nil && len(r.ImagesDeleted) > 0 {
		fmt.Fprintln(p.app.out, "Deleted Images:")
		for _, d := range r.ImagesDeleted {
			if d.Untagged != "" {
				fmt.Fprintln(p.app.out, "untagged:", d.Untagged)
			} else {
				fmt.Fprintln(p.app.out, "deleted:", d.Deleted)
			}
		}
		fmt.Fprintln(p.app.out)
	}
	return r.SpaceReclaimed, err
}

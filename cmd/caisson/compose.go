package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
	"github.com/caisson-engine/caisson/engine/client"
)

// composeCommands drive a project of Compose files. caisson-compose reads the
// files; see internal/compose for the rest.
var composeCommands = command{
	name:  "compose",
	short: "Define and run applications of several containers with Compose files",
	long: "Names, labels and hashes are those of `docker compose`: either of the two can go on\n" +
		"where the other left off. Keys of the files that mean nothing here are named in a\n" +
		"warning. Images are not built.",
	group: func(a *app, f *pflag.FlagSet) {
		a.compose.Register(f)
		// For scripts: what is printed is plain text with and without them.
		f.String("progress", "auto", "Accepted for Docker's sake; progress is one line for each step")
		f.String("ansi", "auto", "Accepted for Docker's sake; color is for terminals")
		f.Lookup("progress").Hidden, f.Lookup("ansi").Hidden = true, true
	},
	sub: []*command{
		&composeUpCommand, &composeDownCommand, &composePsCommand, &composeLogsCommand, &composeExecCommand, &composeRunCommand,
		&composeStartCommand, &composeStopCommand, &composeRestartCommand, &composeKillCommand, &composeRmCommand,
		&composePauseCommand, &composeUnpauseCommand, &composePullCommand, &composePushCommand, &composeConfigCommand, &composeImagesCommand,
		&composeLsCommand, &composeTopCommand, &composePortCommand, &composeScaleCommand, &composeEventsCommand, &composeVersionCommand,
		&composeCreateCommand, &composeCpCommand, &composeWaitCommand, &composeStatsCommand, &composeAttachCommand,
	},
}

// project reads the project; services that are named belong to it whatever their
// profile.
func (a *app) project(ctx context.Context, services ...string) (*compose.Runner, error) {
	return a.load(ctx, false, services)
}

func (a *app) load(ctx context.Context, whole bool, services []string) (*compose.Runner, error) {
	p, err := a.compose.Load(ctx, whole, services...)
	if err != nil {
		return nil, err
	}
	api, err := a.client()
	if err != nil {
		return nil, err
	}
	return &compose.Runner{
		API: api, Project: p, Out: a.err, Warn: a.err,
		Pull: func(ctx context.Context, image, platform string) error {
			return a.pullImage(ctx, api, image, platform, a.err, a.errTTY)
		},
	}, nil
}

// planned is project for what makes containers: it needs the files, and says
// what of them it leaves out.
func (a *app) planned(ctx context.Context, services ...string) (*compose.Runner, error) {
	r, err := a.load(ctx, true, services)
	if err != nil {
		return nil, err
	}
	if r.Project.Files == nil {
		return nil, fmt.Errorf("no configuration file provided: there are only containers of project %q", r.Project.Name)
	}
	for _, i := range r.Project.Ignored {
		fmt.Fprintln(a.err, "WARNING: ignored:", i)
	}
	return r, nil
}

// remote refuses to mount files of this host into containers of another.
func remote(r *compose.Runner, services []*compose.Service) error {
	for _, s := range services {
		if len(s.Contents) > 0 && r.API.Host().Network == "tcp" {
			return fmt.Errorf("services.%s: %s: its content is kept in this host's memory, but the engine is on another host", s.Name, s.Contents[0].Target)
		}
	}
	return nil
}

func (a *app) printer(noColor, noPrefix bool) *compose.Printer {
	return &compose.Printer{Out: a.out, Err: a.err, Color: !noColor && a.outTTY.Is(), NoPrefix: noPrefix}
}

// timeoutFlag registers -t; nil is the containers' own time.
func timeoutFlag(f *pflag.FlagSet) func() *int {
	n := f.IntP("timeout", "t", 0, "Use this timeout in seconds for container shutdown")
	return func() *int {
		if f.Changed("timeout") {
			return n
		}
		return nil
	}
}

// noBuild registers --build, to say what to do instead.
func noBuild(f *pflag.FlagSet) func() error {
	build := f.Bool("build", false, "Refused: caisson compose does not build images")
	f.Bool("no-build", false, "Don't build an image, even if it's policy; this is always so")
	return func() error {
		if *build {
			return fmt.Errorf("--build: caisson compose does not build images: build them with another tool, load them, and leave --build out")
		}
		return nil
	}
}

// scales reads SERVICE=NUM.
func scales(values []string) (map[string]int, error) {
	out := map[string]int{}
	for _, v := range values {
		name, num, ok := strings.Cut(v, "=")
		n, err := strconv.Atoi(num)
		if !ok || name == "" || err != nil || n < 0 {
			return nil, fmt.Errorf("invalid scale specifier %q: it has to be SERVICE=NUM", v)
		}
		out[name] = n
	}
	return out, nil
}

// onServices makes the setup of a verb without flags that does one thing to each
// running container of the services.
func onServices(done string, do func(*client.Client, context.Context, string) error) func(*app, *pflag.FlagSet) action {
	return func(a *app, _ *pflag.FlagSet) action {
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			return r.Each(ctx, services, done, func(ctx context.Context, id string) error { return do(r.API, ctx, id) })
		}
	}
}

// completeServices proposes the services of the files at hand.
func completeServices(ctx context.Context, a *app, args []string, _ string) []string {
	p, err := a.compose.Load(ctx, false)
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range p.Services {
		out = append(out, s.Name)
	}
	return append(out, p.Dormant...)
}

// writeFile writes what a verb prints to a file if one is named.
func (a *app) writeFile(name string, b []byte) error {
	if name == "" {
		_, err := io.Copy(a.out, strings.NewReader(string(b)))
		return err
	}
	return os.WriteFile(name, b, 0o644)
}

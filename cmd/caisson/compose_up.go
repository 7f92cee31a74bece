package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
)

var composeUpCommand = command{
	name:  "up",
	args:  "[OPTIONS] [SERVICE...]",
	short: "Create and start containers",
	long: "Containers whose configuration or image changed are made anew; the others are left as\n" +
		"they are. Without --detach it shows their output until they end, or until Ctrl-C,\n" +
		"which stops them.",
	examples: []string{
		"compose up -d --wait # Start the project and return when it is healthy",
		"compose up --scale worker=3 worker # Three of one service, with their output",
		"compose up --exit-code-from tests # Stop all when the tests end, with their exit code",
	},
	max:      -1,
	complete: completeServices,
	flags:    map[string]completer{"pull": completeWords("always", "missing", "never")},
	setup: func(a *app, f *pflag.FlagSet) action {
		u := &upper{app: a, create: createFlags(f), noBuild: noBuild(f)}
		f.BoolVar(&u.attach.AbortOnExit, "abort-on-container-exit", false, "Stops all containers if any container was stopped")
		f.BoolVar(&u.attach.AbortOnFailure, "abort-on-container-failure", false, "Stops all containers if any container exited with failure")
		f.BoolVarP(&u.detach, "detach", "d", false, "Detached mode: Run containers in the background")
		f.StringVar(&u.attach.ExitFrom, "exit-code-from", "", "Return the exit code of the selected service container. Implies --abort-on-container-exit")
		f.StringArrayVar(&u.only, "attach", nil, "Restrict attaching to the specified services")
		f.StringArrayVar(&u.noAttach, "no-attach", nil, "Do not attach (stream logs) to the specified services")
		f.BoolVar(&u.noColor, "no-color", false, "Produce monochrome output")
		f.BoolVar(&u.noPrefix, "no-log-prefix", false, "Don't print prefix in logs")
		f.BoolVar(&u.noStart, "no-start", false, "Don't start the services after creating them")
		f.BoolVar(&u.wait, "wait", false, "Wait for services to be running|healthy. Implies detached mode")
		f.IntVar(&u.waitTimeout, "wait-timeout", 0, "Maximum duration in seconds to wait for the project to be running|healthy")
		return u.run
	},
}

// createFlags registers the flags of up and create.
func createFlags(f *pflag.FlagSet) func() (compose.CreateOptions, error) {
	var o compose.CreateOptions
	var force, never, deps bool
	var scale []string
	f.BoolVar(&force, "force-recreate", false, "Recreate containers even if their configuration and image haven't changed")
	f.BoolVar(&never, "no-recreate", false, "If containers already exist, don't recreate them. Incompatible with --force-recreate")
	f.BoolVar(&deps, "always-recreate-deps", false, "Recreate dependent containers. Incompatible with --no-recreate")
	f.BoolVar(&o.NoDeps, "no-deps", false, "Don't start linked services")
	f.BoolVar(&o.RemoveOrphans, "remove-orphans", false, "Remove containers for services not defined in the Compose file")
	f.BoolVarP(&o.RenewVolumes, "renew-anon-volumes", "V", false, "Recreate anonymous volumes instead of retrieving data from the previous containers")
	f.StringVar(&o.Pull, "pull", "policy", `Pull image before running ("always"|"missing"|"never")`)
	f.StringArrayVar(&scale, "scale", nil, "Scale SERVICE to NUM instances. Overrides the scale setting in the Compose file if present")
	timeout := timeoutFlag(f)
	return func() (compose.CreateOptions, error) {
		o.Recreate, o.RecreateDeps, o.Timeout = compose.Diverged, compose.Diverged, timeout()
		switch {
		case force && never:
			return o, errors.New("--force-recreate and --no-recreate are incompatible")
		case deps && never:
			return o, errors.New("--always-recreate-deps and --no-recreate are incompatible")
		case force:
			o.Recreate = compose.Force
		case never:
			o.Recreate, o.RecreateDeps = compose.Never, compose.Never
		}
		if deps {
			o.RecreateDeps = compose.Force
		}
		if o.Pull == "policy" {
			o.Pull = ""
		} else if !slices.Contains([]string{"always", "missing", "never"}, o.Pull) {
			return o, fmt.Errorf("invalid --pull option %q: must be one of always, missing, never", o.Pull)
		}
		var err error
		o.Scale, err = scales(scale)
		return o, err
	}
}

// upper is the up verb.
type upper struct {
	app                   *app
	create                func() (compose.CreateOptions, error)
	noBuild               func() error
	attach                compose.AttachOptions
	only, noAttach        []string
	detach, noStart, wait bool
	noColor, noPrefix     bool
	waitTimeout           int
}

func (u *upper) run(ctx context.Context, services []string) error {
	o, err := u.create()
	if err != nil {
		return err
	}
	if err := u.noBuild(); err != nil {
		return err
	}
	attached := u.attach.AbortOnExit || u.attach.AbortOnFailure || u.attach.ExitFrom != "" || len(u.only) > 0
	switch {
	case u.detach && attached:
		return errors.New("--detach cannot be combined with --abort-on-container-exit, --abort-on-container-failure, --exit-code-from or --attach")
	case u.wait && attached:
		return errors.New("--wait cannot be combined with --abort-on-container-exit, --abort-on-container-failure, --exit-code-from or --attach")
	case u.attach.AbortOnExit && u.attach.AbortOnFailure:
		return errors.New("--abort-on-container-failure cannot be combined with --abort-on-container-exit")
	}
	r, err := u.app.planned(ctx, services...)
	if err != nil {
		return err
	}
	if u.attach.ExitFrom != "" {
		u.attach.AbortOnExit = true
		if err := r.Project.Check([]string{u.attach.ExitFrom}); err != nil {
			return err
		}
	}
	o.Services = services
	if err := remote(r, r.Project.Select(services, !o.NoDeps)); err != nil {
		return err
	}
	chosen, err := r.Create(ctx, o)
	switch {
	case err != nil || u.noStart:
		return err
	case u.wait || u.detach:
		if err := r.Start(ctx, chosen); err != nil || !u.wait {
			return err
		}
		return r.Settle(ctx, chosen, time.Duration(u.waitTimeout)*time.Second)
	}
	for _, s := range chosen {
		s.Silent = s.Silent || slices.Contains(u.noAttach, s.Name) || len(u.only) > 0 && !slices.Contains(u.only, s.Name)
	}
	u.attach.Timeout = o.Timeout
	return u.stay(ctx, r, chosen)
}

// stay shows the services' output. The first signal to stop stops them; the
// second kills them.
func (u *upper) stay(ctx context.Context, r *compose.Runner, services []*compose.Service) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, stopSignals...)
	defer signal.Stop(signals)
	go func() {
		<-signals
		stop()
		<-signals
		_ = r.Each(context.Background(), nil, "Killed", func(ctx context.Context, id string) error { return r.API.Kill(ctx, id, "") })
	}()
	code, err := r.Attach(ctx, u.app.printer(u.noColor, u.noPrefix), services, u.attach)
	if err != nil {
		return err
	}
	return exitCode(code)
}

var composeCreateCommand = command{
	name:     "create",
	args:     "[OPTIONS] [SERVICE...]",
	short:    "Create containers for services, without starting them",
	examples: []string{"compose create web # What `compose start` then starts"},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		create, noBuild := createFlags(f), noBuild(f)
		return func(ctx context.Context, services []string) error {
			o, err := create()
			if err != nil {
				return err
			}
			if err := noBuild(); err != nil {
				return err
			}
			r, err := a.planned(ctx, services...)
			if err != nil {
				return err
			}
			if err := remote(r, r.Project.Select(services, !o.NoDeps)); err != nil {
				return err
			}
			o.Services = services
			_, err = r.Create(ctx, o)
			return err
		}
	},
}

var composeScaleCommand = command{
	name:     "scale",
	args:     "[OPTIONS] SERVICE=NUM [SERVICE=NUM...]",
	short:    "Scale services",
	examples: []string{"compose scale worker=5 # Five containers of it, made or removed as need be"},
	min:      1,
	max:      -1,
	setup: func(a *app, f *pflag.FlagSet) action {
		noDeps := f.Bool("no-deps", false, "Don't start linked services")
		return func(ctx context.Context, args []string) error {
			scale, err := scales(args)
			if err != nil {
				return err
			}
			var services []string
			for name := range scale {
				services = append(services, name)
			}
			r, err := a.planned(ctx, services...)
			if err != nil {
				return err
			}
			chosen, err := r.Create(ctx, compose.CreateOptions{
				Services: services, NoDeps: *noDeps, Recreate: compose.Diverged, RecreateDeps: compose.Diverged, Scale: scale,
			})
			if err != nil {
				return err
			}
			return r.Start(ctx, chosen)
		}
	},
}

var composeDownCommand = command{
	name:  "down",
	args:  "[OPTIONS] [SERVICE...]",
	short: "Stop and remove containers and networks",
	examples: []string{
		"compose down # Volumes, and the data in them, stay",
		"compose down -v --remove-orphans # Everything of the project",
	},
	max:      -1,
	complete: completeServices,
	flags:    map[string]completer{"rmi": completeWords("local", "all")},
	setup: func(a *app, f *pflag.FlagSet) action {
		var o compose.DownOptions
		f.BoolVar(&o.RemoveOrphans, "remove-orphans", false, "Remove containers for services not defined in the Compose file")
		f.StringVar(&o.Images, "rmi", "", `Remove images used by services. "local" remove only images that don't have a custom tag ("local"|"all")`)
		f.BoolVarP(&o.Volumes, "volumes", "v", false, `Remove named volumes declared in the "volumes" section of the Compose file and anonymous volumes attached to containers`)
		timeout := timeoutFlag(f)
		return func(ctx context.Context, services []string) error {
			if o.Images != "" && o.Images != "all" && o.Images != "local" {
				return fmt.Errorf("invalid value for --rmi: %q", o.Images)
			}
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			o.Services, o.Timeout = services, timeout()
			return r.Down(ctx, o)
		}
	},
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
	"github.com/caisson-engine/caisson/engine/client"
)

var composeStartCommand = command{
	name:     "start",
	args:     "[OPTIONS] [SERVICE...]",
	short:    "Start services",
	examples: []string{"compose start # What `compose stop` stopped"},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		wait := f.Bool("wait", false, "Wait for services to be running|healthy")
		timeout := f.Int("wait-timeout", 0, "Maximum duration in seconds to wait for the project to be running|healthy")
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			list, err := r.Of(ctx, services, false)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return errors.New("no container to start: `caisson compose up` makes them")
			}
			chosen := r.Project.Select(services, true)
			if err := r.Start(ctx, chosen); err != nil || !*wait {
				return err
			}
			return r.Settle(ctx, chosen, time.Duration(*timeout)*time.Second)
		}
	},
}

var composeStopCommand = command{
	name:     "stop",
	args:     "[OPTIONS] [SERVICE...]",
	short:    "Stop services",
	examples: []string{"compose stop worker # Without removing its containers"},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		timeout := timeoutFlag(f)
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			return r.Stop(ctx, services, timeout())
		}
	},
}

var composeRestartCommand = command{
	name:     "restart",
	args:     "[OPTIONS] [SERVICE...]",
	short:    "Restart service containers",
	examples: []string{"compose restart web # With the configuration that its containers have"},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		noDeps := f.Bool("no-deps", false, "Don't restart dependent services")
		timeout := timeoutFlag(f)
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			return r.Restart(ctx, services, timeout(), !*noDeps)
		}
	},
}

var composeKillCommand = command{
	name:     "kill",
	args:     "[OPTIONS] [SERVICE...]",
	short:    "Force stop service containers",
	examples: []string{"compose kill -s HUP web # Send a signal to all containers of a service"},
	max:      -1,
	complete: completeServices,
	flags:    map[string]completer{"signal": completeSignals},
	setup: func(a *app, f *pflag.FlagSet) action {
		signal := f.StringP("signal", "s", "SIGKILL", "SIGNAL to send to the container")
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			return r.Each(ctx, services, "Killed", func(ctx context.Context, id string) error { return r.API.Kill(ctx, id, *signal) })
		}
	},
}

var composePauseCommand = command{
	name:     "pause",
	args:     "[SERVICE...]",
	short:    "Pause services",
	examples: []string{"compose pause # Freeze all of the project"},
	max:      -1,
	complete: completeServices,
	setup:    onServices("Paused", (*client.Client).Pause),
}

var composeUnpauseCommand = command{
	name:     "unpause",
	args:     "[SERVICE...]",
	short:    "Unpause services",
	examples: []string{"compose unpause # Let the project go on"},
	max:      -1,
	complete: completeServices,
	setup:    onServices("Unpaused", (*client.Client).Unpause),
}

var composeRmCommand = command{
	name:     "rm",
	args:     "[OPTIONS] [SERVICE...]",
	short:    "Removes stopped service containers",
	examples: []string{"compose rm -s -f worker # Stop them first, and do not ask"},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		force := f.BoolP("force", "f", false, "Don't ask to confirm removal")
		stop := f.BoolP("stop", "s", false, "Stop the containers, if required, before removing")
		volumes := f.BoolP("volumes", "v", false, "Remove any anonymous volumes attached to containers")
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			if *stop {
				if err := r.Stop(ctx, services, nil); err != nil {
					return err
				}
			}
			all, err := r.Of(ctx, services, true)
			if err != nil {
				return err
			}
			var list []*compose.Container
			question := "Going to remove"
			for _, c := range all {
				if !c.Running() {
					list = append(list, c)
					question += " " + c.Name
				}
			}
			if len(list) == 0 {
				fmt.Fprintln(a.err, "No stopped containers")
				return nil
			}
			if !*force && !a.yes(question+"\nAre you sure? [y/N] ") {
				return nil
			}
			return r.Remove(ctx, list, *volumes)
		}
	},
}

var composeWaitCommand = command{
	name:     "wait",
	args:     "[OPTIONS] SERVICE [SERVICE...]",
	short:    "Block until containers of all (or specified) services stop",
	examples: []string{"compose wait migrate # Return the exit code of a service that ends"},
	min:      1,
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		down := f.Bool("down-project", false, "Drops project when the first container stops")
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			list, err := r.Of(ctx, services, false)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return errors.New("no containers for the services")
			}
			code := 0
			for _, c := range list {
				res, err := r.API.Wait(ctx, c.ID, "not-running")
				if lost(ctx, err) {
					res, err = waitAgain(ctx, r.API, c.ID, "not-running")
				}
				if err != nil {
					return err
				}
				fmt.Fprintf(a.out, "container %q exited with status code %d\n", c.ID, res.StatusCode)
				code = res.StatusCode
				if *down {
					if err := r.Down(ctx, compose.DownOptions{}); err != nil {
						return err
					}
					break
				}
			}
			return exitCode(code)
		}
	},
}

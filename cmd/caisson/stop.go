package main

import (
	"context"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/engine/client"
)

var stopCommand = command{
	name:  "stop",
	args:  "[OPTIONS] CONTAINER [CONTAINER...]",
	short: "Stop one or more running containers",
	examples: []string{
		"stop web # Ask it to end, and end it after its grace period",
		"stop -t 60 db # Give it a minute",
	},
	sameAs:   []string{"container stop", "stop"},
	min:      1,
	max:      -1,
	complete: completeRunning,
	flags:    map[string]completer{"signal": completeSignals},
	setup: func(a *app, f *pflag.FlagSet) action {
		o := stopFlags(f)
		return func(ctx context.Context, names []string) error {
			return a.stopAll(ctx, names, o(), (*client.Client).Stop)
		}
	},
}

var restartCommand = command{
	name:     "restart",
	args:     "[OPTIONS] CONTAINER [CONTAINER...]",
	short:    "Restart one or more containers",
	examples: []string{"restart web # Stop it and start it again"},
	sameAs:   []string{"container restart", "restart"},
	min:      1,
	max:      -1,
	complete: completeContainers,
	flags:    map[string]completer{"signal": completeSignals},
	setup: func(a *app, f *pflag.FlagSet) action {
		o := stopFlags(f)
		return func(ctx context.Context, names []string) error {
			return a.stopAll(ctx, names, o(), (*client.Client).Restart)
		}
	},
}

// stopFlags registers the flags that stop and restart share.
func stopFlags(f *pflag.FlagSet) func() client.StopOptions {
	var o client.StopOptions
	var seconds int
	f.StringVarP(&o.Signal, "signal", "s", "", "Signal to send to the container")
	f.IntVarP(&seconds, "timeout", "t", 0, "Seconds to wait before killing the container")
	// --time is Docker's older name of it.
	f.IntVar(&seconds, "time", 0, "Seconds to wait before killing the container")
	f.Lookup("time").Hidden = true
	return func() client.StopOptions {
		if f.Changed("timeout") || f.Changed("time") {
			o.Timeout = &seconds
		}
		return o
	}
}

func (a *app) stopAll(ctx context.Context, names []string, o client.StopOptions, stop func(*client.Client, context.Context, string, client.StopOptions) error) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	return a.eachParallel(ctx, names, func(ctx context.Context, n string) error { return stop(api, ctx, n, o) })
}

package main

import (
	"context"

	"github.com/spf13/pflag"
)

var killCommand = command{
	name:  "kill",
	args:  "[OPTIONS] CONTAINER [CONTAINER...]",
	short: "Kill one or more running containers",
	examples: []string{
		"kill web # End it at once",
		"kill -s HUP web # Send another signal",
	},
	sameAs:   []string{"container kill", "kill"},
	min:      1,
	max:      -1,
	complete: completeRunning,
	flags:    map[string]completer{"signal": completeSignals},
	setup: func(a *app, f *pflag.FlagSet) action {
		signal := f.StringP("signal", "s", "", "Signal to send to the container")
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.eachParallel(ctx, names, func(ctx context.Context, n string) error { return api.Kill(ctx, n, *signal) })
		}
	},
}

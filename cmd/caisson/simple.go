package main

import (
	"context"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/engine/client"
)

// forEach makes the setup of a verb without flags that does one thing to each
// container named.
func forEach(do func(*client.Client, context.Context, string) error) func(*app, *pflag.FlagSet) action {
	return func(a *app, _ *pflag.FlagSet) action {
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.each(ctx, names, func(ctx context.Context, n string) error { return do(api, ctx, n) })
		}
	}
}

var pauseCommand = command{
	name:     "pause",
	args:     "CONTAINER [CONTAINER...]",
	short:    "Pause all processes within one or more containers",
	examples: []string{"pause web # Freeze it; `caisson unpause web` lets it go on"},
	sameAs:   []string{"container pause", "pause"},
	min:      1,
	max:      -1,
	complete: completeRunning,
	setup:    forEach((*client.Client).Pause),
}

var unpauseCommand = command{
	name:     "unpause",
	args:     "CONTAINER [CONTAINER...]",
	short:    "Unpause all processes within one or more containers",
	examples: []string{"unpause web # Let a paused container go on"},
	sameAs:   []string{"container unpause", "unpause"},
	min:      1,
	max:      -1,
	complete: completeRunning,
	setup:    forEach((*client.Client).Unpause),
}

package main

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/pflag"
)

var rmCommand = command{
	name:  "rm",
	args:  "[OPTIONS] CONTAINER [CONTAINER...]",
	short: "Remove one or more containers",
	examples: []string{
		"rm web # Remove a stopped container",
		"rm -f web # Stop it first if need be",
		"rm $(caisson ps -aq --filter status=exited) # Remove all that ended",
	},
	sameAs:   []string{"container rm", "container remove", "rm"},
	min:      1,
	max:      -1,
	complete: completeContainers,
	setup: func(a *app, f *pflag.FlagSet) action {
		var force, link, volumes bool
		f.BoolVarP(&force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
		f.BoolVarP(&link, "link", "l", false, "Remove the specified link")
		f.BoolVarP(&volumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.eachParallel(ctx, names, func(ctx context.Context, n string) error {
				n = strings.Trim(n, "/")
				if n == "" {
					return errors.New("container name cannot be empty")
				}
				err := api.Remove(ctx, n, force, volumes, link)
				if force && errdefs.IsNotFound(err) {
					// What is asked for is the case; scripts rely on the code 0.
					return &silentError{err}
				}
				return err
			})
		}
	},
}

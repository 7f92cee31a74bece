package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/pflag"
)

var renameCommand = command{
	name:     "rename",
	args:     "CONTAINER NEW_NAME",
	short:    "Rename a container",
	examples: []string{"rename web web-old # Make the name free"},
	sameAs:   []string{"container rename", "rename"},
	min:      2,
	max:      2,
	complete: completeFirst(completeContainers),
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(ctx context.Context, args []string) error {
			from, to := strings.TrimSpace(args[0]), strings.TrimSpace(args[1])
			if from == "" || to == "" {
				return errors.New("neither old nor new names may be empty")
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			return api.Rename(ctx, from, to)
		}
	},
}

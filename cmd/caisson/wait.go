package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"
)

var waitCommand = command{
	name:     "wait",
	args:     "CONTAINER [CONTAINER...]",
	short:    "Block until one or more containers stop, then print their exit codes",
	examples: []string{"wait job # Print the exit code when it ends"},
	sameAs:   []string{"container wait", "wait"},
	min:      1,
	max:      -1,
	complete: completeRunning,
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			var errs []error
			for _, n := range names {
				res, err := api.Wait(ctx, n, "")
				if lost(ctx, err) {
					res, err = waitAgain(ctx, api, n, "")
				}
				switch {
				case err != nil:
					errs = append(errs, err)
				case res.Error != nil && res.Error.Message != "":
					errs = append(errs, errors.New(res.Error.Message))
				default:
					fmt.Fprintln(a.out, res.StatusCode)
				}
			}
			return errors.Join(errs...)
		}
	},
}

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
)

var rmiCommand = command{
	name:  "rmi",
	args:  "[OPTIONS] IMAGE [IMAGE...]",
	short: "Remove one or more images",
	examples: []string{
		"rmi app:dev # Remove a name, and the image with its last one",
		"rmi -f app # Also if stopped containers were made from it",
	},
	sameAs:   []string{"image rm", "image remove", "rmi"},
	min:      1,
	max:      -1,
	complete: completeImages,
	flags:    map[string]completer{"platform": completePlatforms},
	setup: func(a *app, f *pflag.FlagSet) action {
		var force, noPrune bool
		var platforms opts.List
		f.BoolVarP(&force, "force", "f", false, "Force removal of the image")
		f.BoolVar(&noPrune, "no-prune", false, "Do not delete untagged parents")
		f.Var(&platforms, "platform", "Remove only the given platform variant")
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			var errs []error
			for _, n := range names {
				list, err := api.RemoveImage(ctx, n, force, noPrune, platforms.Values)
				switch {
				case err == nil:
				case force && errdefs.IsNotFound(err):
					fmt.Fprintln(a.err, err)
				default:
					errs = append(errs, err)
				}
				for _, d := range list {
					if d.Deleted != "" {
						fmt.Fprintln(a.out, "Deleted:", d.Deleted)
					} else {
						fmt.Fprintln(a.out, "Untagged:", d.Untagged)
					}
				}
			}
			return errors.Join(errs...)
		}
	},
}

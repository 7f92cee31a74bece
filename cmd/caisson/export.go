package main

import (
	"context"
	"io"

	"github.com/spf13/pflag"
)

var exportCommand = command{
	name:     "export",
	args:     "[OPTIONS] CONTAINER",
	short:    "Export a container's filesystem as a tar archive",
	examples: []string{"export web | tar t # What is in it"},
	sameAs:   []string{"container export", "export"},
	min:      1,
	max:      1,
	complete: completeFirst(completeContainers),
	setup: func(a *app, f *pflag.FlagSet) action {
		output := f.StringP("output", "o", "", "Write to a file, instead of STDOUT")
		return func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.writeOutput(*output, func() (io.ReadCloser, error) { return api.Export(ctx, args[0]) })
		}
	},
}

package main

import (
	"context"
	"io"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
)

var saveCommand = command{
	name:  "save",
	args:  "[OPTIONS] IMAGE [IMAGE...]",
	short: "Save one or more images to a tar archive (streamed to STDOUT by default)",
	examples: []string{
		"save -o app.tar app:1.2 # To a file",
		"save app:1.2 | ssh host caisson load # To another host",
	},
	sameAs:   []string{"image save", "save"},
	min:      1,
	max:      -1,
	complete: completeImages,
	flags:    map[string]completer{"platform": completePlatforms},
	setup: func(a *app, f *pflag.FlagSet) action {
		var platforms opts.List
		output := f.StringP("output", "o", "", "Write to a file, instead of STDOUT")
		f.Var(&platforms, "platform", `Save only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
		return func(ctx context.Context, names []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.writeOutput(*output, func() (io.ReadCloser, error) { return api.Save(ctx, names, platforms.Values) })
		}
	},
}

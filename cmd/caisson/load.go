package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
)

var loadCommand = command{
	name:  "load",
	args:  "[OPTIONS]",
	short: "Load an image from a tar archive or STDIN",
	examples: []string{
		"load -i app.tar # From a file",
		"load < app.tar.gz # From standard input; compressed ones too",
	},
	sameAs: []string{"image load", "load"},
	flags:  map[string]completer{"platform": completePlatforms},
	setup: func(a *app, f *pflag.FlagSet) action {
		var input string
		var quiet bool
		var platforms opts.List
		f.StringVarP(&input, "input", "i", "", "Read from tar archive file, instead of STDIN")
		f.Var(&platforms, "platform", `Load only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
		f.BoolVarP(&quiet, "quiet", "q", false, "Suppress the load output")
		return func(ctx context.Context, _ []string) error {
			in := a.in
			switch {
			case input != "":
				file, err := os.Open(input)
				if err != nil {
					return err
				}
				defer file.Close()
				in = file
			case a.inTTY.Is():
				return errors.New("requested load from stdin, but stdin is empty")
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			m, err := api.Load(ctx, in, quiet || !a.outTTY.Is(), platforms.Values)
			if err != nil {
				return err
			}
			defer m.Close()
			return showProgress(m, a.out, a.outTTY, nil)
		}
	},
}

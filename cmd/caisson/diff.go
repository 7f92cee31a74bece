package main

import (
	"context"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
)

var diffCommand = command{
	name:     "diff",
	args:     "CONTAINER",
	short:    "Inspect changes to files or directories on a container's filesystem",
	long:     "A is added, C is changed, D is deleted.",
	examples: []string{"diff web # What it changed since it was made"},
	sameAs:   []string{"container diff", "diff"},
	min:      1,
	max:      1,
	complete: completeFirst(completeContainers),
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := f.String("format", "", formatUsage)
		f.Lookup("format").Hidden = true
		return func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			list, err := api.Changes(ctx, args[0])
			if err != nil {
				return err
			}
			kinds := []string{"C", "A", "D"}
			rows := make([]diffRow, len(list))
			for i, c := range list {
				rows[i] = diffRow{Type: "?", Path: c.Path}
				if c.Kind >= 0 && c.Kind < len(kinds) {
					rows[i].Type = kinds[c.Kind]
				}
			}
			if *tmpl == "" {
				*tmpl = "{{.Type}} {{.Path}}"
			}
			return format.Write(a.out, diffList, *tmpl, false, rows)
		}
	},
}

var diffList = format.List{
	Table:   `{{.Type}}\t{{.Path}}`,
	Headers: format.Headers{"Type": "CHANGE TYPE", "Path": "PATH"},
}

// diffRow is a change as templates see it.
type diffRow struct{ Path, Type string }

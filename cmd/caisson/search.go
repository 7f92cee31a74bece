package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/refs"
)

var searchCommand = command{
	name:  "search",
	args:  "[OPTIONS] TERM",
	short: "Search a registry for images",
	examples: []string{
		"search --filter is-official=true python # On Docker Hub",
		"search registry.example.com/app # In another registry, where it offers that",
	},
	min:   1,
	max:   1,
	flags: map[string]completer{"filter": completeWords("is-automated=", "is-official=", "stars=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		var filter opts.Filter
		var limit int
		var noTrunc bool
		f.VarP(&filter, "filter", "f", "Filter output based on conditions provided")
		tmpl := f.String("format", "", "Pretty-print search using a Go template")
		f.IntVar(&limit, "limit", 0, "Max number of search results")
		f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
		return func(ctx context.Context, args []string) error {
			auth, err := a.credentials().Get(refs.Parse(args[0]).Domain)
			if err != nil {
				return err
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			list, err := api.Search(ctx, args[0], limit, filter.Values, auth)
			if err != nil {
				return err
			}
			rows := make([]searchRow, len(list))
			for i, r := range list {
				desc := strings.NewReplacer("\n", " ", "\r", " ").Replace(r.Description)
				if !noTrunc {
					desc = format.Ellipsis(desc, 45)
				}
				rows[i] = searchRow{
					Name: r.Name, Description: desc, StarCount: strconv.Itoa(r.StarCount),
					IsOfficial: mark(r.IsOfficial), IsAutomated: mark(r.IsAutomated),
				}
			}
			return format.Write(a.out, searchList, *tmpl, false, rows)
		}
	},
}

func mark(b bool) string {
	if b {
		return "[OK]"
	}
	return ""
}

var searchList = format.List{
	Table: `{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}`,
	Headers: format.Headers{
		"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL", "IsAutomated": "AUTOMATED",
	},
}

// searchRow is a repository as templates see it.
type searchRow struct{ Description, IsAutomated, IsOfficial, Name, StarCount string }

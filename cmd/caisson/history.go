package main

import (
	"context"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/engine/client"
)

var historyCommand = command{
	name:     "history",
	args:     "[OPTIONS] IMAGE",
	short:    "Show the history of an image",
	examples: []string{"history --no-trunc debian # How it was made, step by step"},
	sameAs:   []string{"image history", "history"},
	min:      1,
	max:      1,
	complete: completeFirst(completeImages),
	flags:    map[string]completer{"platform": completePlatforms},
	setup: func(a *app, f *pflag.FlagSet) action {
		var human, noTrunc, quiet bool
		var platform string
		tmpl := formatFlag(f)
		f.BoolVarP(&human, "human", "H", true, "Print sizes and dates in human readable format")
		f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
		f.StringVar(&platform, "platform", "", `Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")`)
		f.BoolVarP(&quiet, "quiet", "q", false, "Only show image IDs")
		return func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			list, err := api.History(ctx, args[0], platform)
			if err != nil {
				return err
			}
			rows := make([]historyRow, len(list))
			for i, h := range list {
				rows[i] = newHistoryRow(h, !noTrunc, human)
			}
			l := historyList
			if !human {
				l.Table = `{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}`
			}
			return format.Write(a.out, l, *tmpl, quiet, rows)
		}
	},
}

var historyList = format.List{
	Table: `{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}`,
	Quiet: `{{.ID}}`,
	Headers: format.Headers{
		"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
	},
}

// historyRow is a step as templates see it.
type historyRow struct{ Comment, CreatedAt, CreatedBy, CreatedSince, ID, Size string }

func newHistoryRow(h client.HistoryItem, trunc, human bool) historyRow {
	r := historyRow{ID: h.ID, CreatedBy: strings.ReplaceAll(h.CreatedBy, "\t", " "), Comment: h.Comment, Size: itoa(h.Size)}
	if human {
		r.Size = units.HumanSizeWithPrecision(float64(h.Size), 3)
	}
	created := time.Unix(h.Created, 0)
	r.CreatedAt = created.Format(time.RFC3339)
	if h.Created > 0 {
		r.CreatedSince = units.HumanDuration(time.Since(created)) + " ago"
	} else {
		r.CreatedSince = "N/A"
	}
	if !human {
		r.CreatedSince = r.CreatedAt
	}
	if trunc {
		r.CreatedBy = format.Ellipsis(r.CreatedBy, 45)
		r.ID = format.ShortID(h.ID)
	}
	return r
}

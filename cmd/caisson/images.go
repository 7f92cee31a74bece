package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/refs"
	"github.com/caisson-engine/caisson/engine/client"
)

var imagesCommand = command{
	name:  "images",
	args:  "[OPTIONS] [REPOSITORY[:TAG]]",
	short: "List images",
	examples: []string{
		"images # What is here",
		"images --filter dangling=true -q # Ids of what has no name",
	},
	sameAs:   []string{"image ls", "image list", "images"},
	max:      1,
	complete: completeFirst(completeImages),
	flags:    map[string]completer{"filter": completeWords("before=", "dangling=", "label=", "reference=", "since=", "until=")},
	setup: func(a *app, f *pflag.FlagSet) action {
		var all, digests, noTrunc, quiet bool
		var filter opts.Filter
		tmpl := formatFlag(f)
		f.BoolVarP(&all, "all", "a", false, "Show all images (default hides intermediate images)")
		f.BoolVar(&digests, "digests", false, "Show digests")
		f.VarP(&filter, "filter", "f", "Filter output based on conditions provided")
		f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
		f.BoolVarP(&quiet, "quiet", "q", false, "Only show image IDs")
		return func(ctx context.Context, args []string) error {
			if len(args) > 0 {
				if err := filter.Set("reference=" + args[0]); err != nil {
					return err
				}
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			list, err := api.Images(ctx, client.ImageListOptions{All: all, Filters: filter.Values})
			if err != nil {
				return err
			}
			slices.SortStableFunc(list, func(a, b client.ImageSummary) int { return int(b.Created - a.Created) })
			var rows []imageRow
			for _, img := range list {
				rows = append(rows, imageRows(img, !noTrunc, digests || strings.Contains(*tmpl, ".Digest"))...)
			}
			l := imageList
			if digests {
				l.Table = `{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`
			}
			return format.Write(a.out, l, *tmpl, quiet, rows)
		}
	},
}

var imageList = format.List{
	Table: `{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}`,
	Quiet: `{{.ID}}`,
	Raw: `repository: {{.Repository}}
tag: {{.Tag}}
image_id: {{.ID}}
created_at: {{.CreatedAt}}
virtual_size: {{.Size}}
`,
	Headers: format.Headers{
		"ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
		"CreatedAt": "CREATED AT", "Size": "SIZE", "Containers": "CONTAINERS", "VirtualSize": "SIZE",
		"SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
	},
}

// imageRow is one name of an image as templates see it.
type imageRow struct {
	Containers, CreatedAt, CreatedSince, Digest, ID, Repository string
	SharedSize, Size, Tag, UniqueSize, VirtualSize              string
}

const none = "<none>"

// imageRows are one row for each name, and with digests for each digest too.
func imageRows(img client.ImageSummary, trunc, digests bool) []imageRow {
	base := imageRow{
		ID: img.ID, Repository: none, Tag: none, Digest: none,
		Size:       units.HumanSizeWithPrecision(float64(img.Size), 3),
		SharedSize: sizeOrNA(img.SharedSize), UniqueSize: "N/A", Containers: countOrNA(img.Containers),
	}
	base.VirtualSize = units.HumanSize(float64(img.Size))
	if img.SharedSize >= 0 {
		base.UniqueSize = units.HumanSizeWithPrecision(float64(img.Size-img.SharedSize), 3)
	}
	if img.Created > 0 {
		created := time.Unix(img.Created, 0)
		base.CreatedAt = created.String()
		base.CreatedSince = units.HumanDuration(time.Since(created)) + " ago"
	}
	if trunc {
		base.ID = format.ShortID(img.ID)
	}
	byRepo := map[string][]string{}
	for _, d := range img.RepoDigests {
		r := refs.Parse(d)
		byRepo[r.Familiar()] = append(byRepo[r.Familiar()], r.Digest)
	}
	var out []imageRow
	tagged := map[string]bool{}
	for _, t := range img.RepoTags {
		if strings.HasPrefix(t, none) {
			continue
		}
		ref := refs.Parse(t)
		row := base
		row.Repository, row.Tag = ref.Familiar(), ref.Tag
		tagged[row.Repository] = true
		ds := byRepo[row.Repository]
		if !digests || len(ds) == 0 {
			out = append(out, row)
			continue
		}
		for _, d := range ds {
			row.Digest = d
			out = append(out, row)
		}
	}
	// A repository known by digest only.
	for _, d := range img.RepoDigests {
		ref := refs.Parse(d)
		if repo := ref.Familiar(); !tagged[repo] && repo != none {
			tagged[repo] = true
			row := base
			row.Repository, row.Digest = repo, ref.Digest
			out = append(out, row)
		}
	}
	if len(out) == 0 {
		out = append(out, base)
	}
	return out
}

package main

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/refs"
	"github.com/caisson-engine/caisson/engine/client"
)

var commitCommand = command{
	name:  "commit",
	args:  "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
	short: "Create a new image from a container's changes",
	examples: []string{
		"commit shell my/debian:tools # Keep what was installed in it",
		"commit -c 'CMD [\"nginx\"]' web my/web # And say what it runs",
	},
	sameAs:   []string{"container commit", "commit"},
	min:      1,
	max:      2,
	complete: completeFirst(completeContainers),
	setup: func(a *app, f *pflag.FlagSet) action {
		var o client.CommitOptions
		var changes opts.List
		var pause bool
		f.StringVarP(&o.Author, "author", "a", "", `Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")`)
		f.VarP(&changes, "change", "c", "Apply Dockerfile instruction to the created image")
		f.StringVarP(&o.Comment, "message", "m", "", "Commit message")
		f.BoolVarP(&pause, "pause", "p", true, "Pause container during commit")
		return func(ctx context.Context, args []string) error {
			o.Changes, o.NoPause = changes.Values, !pause
			if len(args) > 1 {
				o.Repo, o.Tag = repoTag(args[1])
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			id, err := api.Commit(ctx, args[0], o)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, id)
			return nil
		}
	},
}

// repoTag splits a name to be given; without a tag it is latest.
func repoTag(s string) (repo, tag string) {
	r := refs.Parse(s)
	if r.Tag == "" {
		r.Tag = "latest"
	}
	return r.Name(), r.Tag
}

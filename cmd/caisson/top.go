package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

var topCommand = command{
	name:  "top",
	args:  "CONTAINER [ps OPTIONS]",
	short: "Display the running processes of a container",
	examples: []string{
		"top web # Its processes, as the host sees them",
		"top web -o pid,rss,args # With the columns of ps",
	},
	sameAs:   []string{"container top", "top"},
	min:      1,
	max:      -1,
	flat:     true,
	complete: completeFirst(completeRunning),
	setup: func(a *app, _ *pflag.FlagSet) action {
		return func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			t, err := api.Top(ctx, args[0], strings.Join(args[1:], " "))
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.out, 20, 1, 3, ' ', 0)
			fmt.Fprintln(w, strings.Join(t.Titles, "\t"))
			for _, p := range t.Processes {
				fmt.Fprintln(w, strings.Join(p, "\t"))
			}
			return w.Flush()
		}
	},
}

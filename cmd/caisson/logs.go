package main

import (
	"context"
	"io"
	"time"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/when"
	"github.com/caisson-engine/caisson/engine/client"
)

var logsCommand = command{
	name:  "logs",
	args:  "[OPTIONS] CONTAINER",
	short: "Fetch the logs of a container",
	examples: []string{
		"logs -f --tail 20 web # The last 20 lines, then what comes",
		"logs --since 10m -t web # The last ten minutes, with times",
	},
	sameAs:   []string{"container logs", "logs"},
	min:      1,
	max:      1,
	complete: completeFirst(completeContainers),
	setup: func(a *app, f *pflag.FlagSet) action {
		o := client.LogsOptions{Stdout: true, Stderr: true}
		f.BoolVar(&o.Details, "details", false, "Show extra details provided to logs")
		f.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
		f.StringVar(&o.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
		f.StringVar(&o.Until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
		f.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
		f.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
		return func(ctx context.Context, args []string) error {
			now := time.Now()
			var err error
			if o.Since, err = when.Parse(o.Since, now); err != nil {
				return usageStatus("logs", err)
			}
			if o.Until, err = when.Parse(o.Until, now); err != nil {
				return usageStatus("logs", err)
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			c, _, err := api.Inspect(ctx, args[0], false)
			if err != nil {
				return err
			}
			r, err := api.Logs(ctx, c.ID, o)
			if err != nil {
				return err
			}
			defer r.Close()
			if c.Config.Tty {
				_, err = io.Copy(a.out, r)
				return err
			}
			out := output{out: skipper{w: a.out}, err: skipper{w: a.err}}
			err = client.Demux(&out.out, &out.err, r)
			if err != nil && broken(err) && o.Follow && o.Tail == "all" {
				return out.resume(ctx, api, c.ID, o)
			}
			return err
		}
	},
}

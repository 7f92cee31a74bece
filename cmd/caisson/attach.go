package main

import (
	"context"
	"errors"

	"github.com/spf13/pflag"
)

var attachCommand = command{
	name:  "attach",
	args:  "[OPTIONS] CONTAINER",
	short: "Attach local standard input, output, and error streams to a running container",
	examples: []string{
		"attach shell # Connect this terminal; ctrl-p ctrl-q detaches and leaves it running",
		"attach --no-stdin web # Only watch what it writes",
	},
	sameAs:   []string{"container attach", "attach"},
	min:      1,
	max:      1,
	complete: completeFirst(completeRunning),
	setup: func(a *app, f *pflag.FlagSet) action {
		var noStdin, proxy bool
		var keys string
		f.BoolVar(&noStdin, "no-stdin", false, "Do not attach STDIN")
		f.StringVar(&keys, "detach-keys", "", "Override the key sequence for detaching a container")
		f.BoolVar(&proxy, "sig-proxy", true, "Proxy all received signals to the process")
		return func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			c, _, err := api.Inspect(ctx, args[0], false)
			switch {
			case err != nil:
				return err
			case !c.State.Running:
				return errors.New("cannot attach to a stopped container, start it first")
			case c.State.Paused:
				return errors.New("cannot attach to a paused container, unpause it first")
			case c.State.Restarting:
				return errors.New("cannot attach to a restarting container, wait until it is running")
			}
			return a.attachAnd(ctx, api, attachment{
				c: c, stdin: !noStdin && c.Config.OpenStdin, detachKeys: keys,
				sigProxy: proxy && !c.Config.Tty, condition: "not-running",
			})
		}
	},
}

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/tty"
	"github.com/caisson-engine/caisson/engine/client"
)

var startCommand = command{
	name:  "start",
	args:  "[OPTIONS] CONTAINER [CONTAINER...]",
	short: "Start one or more stopped containers",
	examples: []string{
		"start web # Start a container in the background",
		"start -ai shell # Start one and connect this terminal to it",
	},
	sameAs:   []string{"container start", "start"},
	min:      1,
	max:      -1,
	complete: completeStopped,
	setup: func(a *app, f *pflag.FlagSet) action {
		s := &starter{app: a}
		f.BoolVarP(&s.attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
		f.BoolVarP(&s.stdin, "interactive", "i", false, "Attach container's STDIN")
		f.StringVar(&s.detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
		f.StringVar(&s.checkpoint, "checkpoint", "", "Restore from this checkpoint")
		f.StringVar(&s.checkpointDir, "checkpoint-dir", "", "Use a custom checkpoint storage directory")
		return s.run
	},
}

// starter is the start verb.
type starter struct {
	app                                   *app
	attach, stdin                         bool
	detachKeys, checkpoint, checkpointDir string
}

func (s *starter) run(ctx context.Context, names []string) error {
	api, err := s.app.client()
	if err != nil {
		return err
	}
	if !s.attach && !s.stdin {
		return s.app.each(ctx, names, func(ctx context.Context, n string) error {
			return api.Start(ctx, n, s.checkpoint, s.checkpointDir)
		})
	}
	if len(names) > 1 {
		return errors.New("you cannot start and attach multiple containers at once")
	}
	c, _, err := api.Inspect(ctx, names[0], false)
	if err != nil {
		return err
	}
	condition := "next-exit"
	if c.HostConfig.AutoRemove {
		condition = "removed"
	}
	return s.app.attachAnd(ctx, api, attachment{
		c: c, stdin: s.stdin && c.Config.OpenStdin, detachKeys: s.detachKeys, sigProxy: true, condition: condition,
		started: func() error { return api.Start(ctx, c.ID, s.checkpoint, s.checkpointDir) },
	})
}

// attachment is a container to connect to that exists already.
type attachment struct {
	c          client.Container
	stdin      bool
	detachKeys string
	sigProxy   bool
	condition  string       // of the wait whose result is the exit code
	started    func() error // starts the container once we are connected; may be nil
}

// attachAnd connects to a container, lets it start and returns its exit code.
func (a *app) attachAnd(ctx context.Context, api *client.Client, at attachment) error {
	if err := a.checkTTY(at.stdin, at.c.Config.Tty); err != nil {
		return err
	}
	id := at.c.ID
	wait, err := api.BeginWait(ctx, id, at.condition)
	if err != nil {
		return err
	}
	att, err := api.BeginAttach(ctx, id, client.AttachOptions{Stdin: at.stdin, Stdout: true, Stderr: true, DetachKeys: at.detachKeys})
	if err != nil {
		wait.Cancel()
		return err
	}
	stream, err := att.Hijack()
	if err != nil {
		wait.Cancel()
		return err
	}
	waiting, err := wait.Waiting()
	if err != nil {
		stream.Close()
		return err
	}
	defer waiting.Close()
	if at.sigProxy {
		defer a.forwardSignals(ctx, api, id)()
	}
	if at.started != nil {
		if err := at.started(); err != nil {
			stream.Close()
			return runStatusOf(err)
		}
	}
	if at.c.Config.Tty {
		defer a.followSize(ctx, func(ctx context.Context, rows, cols uint) error {
			return api.Resize(ctx, id, rows, cols)
		})()
		if !at.sigProxy {
			var stop func()
			ctx, stop = interruptible(ctx)
			defer stop()
		}
	}
	s := &session{app: a, stream: stream, tty: at.c.Config.Tty, stdin: at.stdin, stdout: a.out, stderr: a.err, detachKeys: at.detachKeys}
	err = s.run(ctx)
	if errors.Is(err, tty.ErrDetached) {
		fmt.Fprintln(a.err, err)
		return nil
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	res, err := waitResult(ctx, api, waiting, id, at.condition)
	if err != nil {
		return err
	}
	if res.Error != nil && res.Error.Message != "" {
		return errors.New(res.Error.Message)
	}
	return exitCode(res.StatusCode)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/tty"
	"github.com/caisson-engine/caisson/engine/client"
)

var execCommand = command{
	name:  "exec",
	args:  "[OPTIONS] CONTAINER COMMAND [ARG...]",
	short: "Execute a command in a running container",
	examples: []string{
		"exec -it web sh # A shell beside the container's own program",
		"exec -u postgres db psql -c 'select 1' # One command as another user",
	},
	sameAs:   []string{"container exec", "exec"},
	min:      2,
	max:      -1,
	flat:     true,
	complete: completeFirst(completeRunning),
	setup: func(a *app, f *pflag.FlagSet) action {
		e := &execer{app: a}
		e.env.Check = opts.CheckEnv
		f.BoolVarP(&e.detach, "detach", "d", false, "Detached mode: run command in the background")
		f.StringVar(&e.cfg.DetachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
		f.VarP(&e.env, "env", "e", "Set environment variables")
		f.Var(&e.envFile, "env-file", "Read in a file of environment variables")
		f.BoolVarP(&e.stdin, "interactive", "i", false, "Keep STDIN open even if not attached")
		f.BoolVar(&e.cfg.Privileged, "privileged", false, "Give extended privileges to the command")
		f.BoolVarP(&e.cfg.Tty, "tty", "t", false, "Allocate a pseudo-TTY")
		f.StringVarP(&e.cfg.User, "user", "u", "", `Username or UID (format: "<name|uid>[:<group|gid>]")`)
		f.StringVarP(&e.cfg.WorkingDir, "workdir", "w", "", "Working directory inside the container")
		return e.run
	},
}

// maxExecDelay is the longest time between two questions whether an exec ended.
const maxExecDelay = 100 * time.Millisecond

// execer is the exec verb.
type execer struct {
	app           *app
	cfg           client.ExecConfig
	env, envFile  opts.List
	detach, stdin bool
}

func (e *execer) run(ctx context.Context, args []string) error {
	env, err := opts.ReadEnv(e.envFile.Values)
	if err != nil {
		return usageStatus("exec", fmt.Errorf("--env-file: %w", err))
	}
	if e.cfg.DetachKeys != "" {
		if _, err := tty.ParseKeys(e.cfg.DetachKeys); err != nil {
			return usageStatus("exec", err)
		}
	}
	cfg := e.cfg
	cfg.Env = append(env, e.env.Values...)
	cfg.Cmd = args[1:]
	var size *[2]uint
	if !e.detach {
		if err := e.app.checkTTY(e.stdin, cfg.Tty); err != nil {
			return err
		}
		cfg.AttachStdin, cfg.AttachStdout, cfg.AttachStderr = e.stdin, true, true
		if rows, cols, ok := e.app.outTTY.Size(); ok && cfg.Tty {
			size = &[2]uint{rows, cols}
		}
	}
	cfg.ConsoleSize = size
	api, err := e.app.client()
	if err != nil {
		return err
	}
	id, err := api.ExecCreate(ctx, args[0], cfg)
	if err != nil {
		return err
	}
	start := client.ExecStart{Tty: cfg.Tty, ConsoleSize: size}
	if e.detach {
		return api.ExecStartDetached(ctx, id, start)
	}
	stream, err := api.ExecAttach(ctx, id, start)
	if err != nil {
		return runStatusOf(err)
	}
	if err := e.attached(ctx, api, id, stream, cfg.Tty); err != nil {
		return err
	}
	return execExit(ctx, api, id)
}

// execExit is the exec's exit code. A program may close its output before it
// ends; the API has nothing to wait for that, so it is asked again.
func execExit(ctx context.Context, api *client.Client, id string) error {
	for delay := time.Millisecond; ; delay = min(2*delay, maxExecDelay) {
		st, err := api.ExecInspect(ctx, id)
		if err != nil {
			return err
		}
		if !st.Running && st.ExitCode != nil {
			return exitCode(*st.ExitCode)
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (e *execer) attached(ctx context.Context, api *client.Client, id string, stream *client.Stream, terminal bool) error {
	s := &session{
		app: e.app, stream: stream, tty: terminal, stdin: e.stdin,
		stdout: e.app.out, stderr: e.app.err, detachKeys: e.cfg.DetachKeys,
	}
	if terminal {
		defer e.app.followSize(ctx, func(ctx context.Context, rows, cols uint) error {
			return api.ExecResize(ctx, id, rows, cols)
		})()
		var stop func()
		ctx, stop = interruptible(ctx)
		defer stop()
	}
	err := s.run(ctx)
	if errors.Is(err, tty.ErrDetached) {
		return &statusError{code: 0}
	}
	return err
}

// runStatusOf gives a failure to start a program its exit code, and leaves
// others alone.
func runStatusOf(err error) error {
	var st *statusError
	if errors.As(runStatus(err), &st) && st.code != exitUsage {
		return &statusError{code: st.code, err: err}
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/tty"
	"github.com/caisson-engine/caisson/engine/client"
)

var runCommand = command{
	name:  "run",
	args:  "[OPTIONS] IMAGE [COMMAND] [ARG...]",
	short: "Create and run a new container from an image",
	long: "The image is pulled if it is not there. The exit code is the program's; 125 says that\n" +
		"the engine or the command line refused, 126 that the program cannot be executed, 127 that\n" +
		"it does not exist.",
	examples: []string{
		"run --rm -it debian bash # A shell in a new container that is gone when the shell ends",
		"run -d --name web -p 8080:80 nginx # A web server in the background, on port 8080 of this host",
		"run --rm -v \"$PWD\":/src -w /src gcc make # Build the current directory with a compiler from an image",
	},
	sameAs:   []string{"container run", "run"},
	min:      1,
	max:      -1,
	flat:     true,
	complete: completeFirst(completeImages),
	flags:    createCompletions,
	setup: func(a *app, f *pflag.FlagSet) action {
		r := &runner{creator: newCreator(a, f)}
		f.BoolVarP(&r.detach, "detach", "d", false, "Run container in background and print container ID")
		f.StringVar(&r.detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
		f.BoolVar(&r.sigProxy, "sig-proxy", true, "Proxy received signals to the process")
		return r.run
	},
}

// runner is the run verb.
type runner struct {
	*creator
	detach     bool
	detachKeys string
	sigProxy   bool
}

func (r *runner) run(ctx context.Context, args []string) error {
	req, err := r.request(args)
	if err != nil {
		return usageStatus("run", err)
	}
	if r.detachKeys != "" {
		if _, err := tty.ParseKeys(r.detachKeys); err != nil {
			return usageStatus("run", err)
		}
	}
	if r.detach {
		if r.f.Changed("attach") {
			return usageStatus("run", errors.New("conflicting options: cannot specify both --attach and --detach"))
		}
		req.AttachStdin, req.AttachStdout, req.AttachStderr, req.StdinOnce = false, false, false, false
	} else if err := r.app.checkTTY(req.AttachStdin, req.Tty); err != nil {
		return err
	}
	api, err := r.app.client()
	if err != nil {
		return err
	}
	made, err := r.create(ctx, req)
	if err != nil {
		return runStatus(err)
	}
	if !req.AttachStdin && !req.AttachStdout && !req.AttachStderr {
		if err := api.Start(ctx, made.ID, "", ""); err != nil {
			return runStatus(err)
		}
		fmt.Fprintln(r.app.out, made.ID)
		return nil
	}
	return r.attached(ctx, api, made.ID, req)
}

// attached starts the container with our streams connected and returns its exit
// code. Attach and wait travel together before start: they cost one round trip,
// and nothing that the container does can be missed.
func (r *runner) attached(ctx context.Context, api *client.Client, id string, req *client.CreateRequest) error {
	condition := "next-exit"
	if req.HostConfig.AutoRemove {
		condition = "removed"
	}
	att, err := api.BeginAttach(ctx, id, client.AttachOptions{
		Stdin: req.AttachStdin, Stdout: req.AttachStdout, Stderr: req.AttachStderr, DetachKeys: r.detachKeys,
	})
	if err != nil {
		return runStatus(err)
	}
	wait, err := api.BeginWait(ctx, id, condition)
	if err != nil {
		att.Cancel()
		return runStatus(err)
	}
	stream, err := att.Hijack()
	if err != nil {
		wait.Cancel()
		return runStatus(err)
	}
	waiting, err := wait.Waiting()
	if err != nil {
		stream.Close()
		return runStatus(err)
	}
	defer waiting.Close()

	start, err := api.BeginStart(ctx, id, "", "")
	if err == nil {
		// While the engine works. Signals are the container's from here on.
		if r.sigProxy {
			defer r.app.forwardSignals(ctx, api, id)()
		}
		err = start.Done()
	}
	if err != nil {
		stream.Close()
		if req.HostConfig.AutoRemove {
			_, _ = waiting.Result() // the engine removes it; after us the name is free
		}
		return runStatus(err)
	}
	s := &session{app: r.app, stream: stream, tty: req.Tty, stdin: req.AttachStdin, detachKeys: r.detachKeys}
	var o output
	if req.AttachStdout {
		o.out.w = r.app.out
	}
	if req.AttachStderr {
		o.err.w = r.app.err
		if req.Tty && o.out.w == nil {
			o.out.w = r.app.err
		}
	}
	s.stdout, s.stderr = o.out.writer(), o.err.writer()
	if req.Tty {
		defer r.app.followSize(ctx, func(ctx context.Context, rows, cols uint) error {
			return api.Resize(ctx, id, rows, cols)
		})()
		if !r.sigProxy {
			var stop func()
			ctx, stop = interruptible(ctx)
			defer stop()
		}
	}
	switch err := s.run(ctx); {
	case errors.Is(err, tty.ErrDetached):
		return nil
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	}
	// Whatever ended the streams, the exit code is what counts.
	res, err := waiting.Result()
	if lost(ctx, err) {
		// The engine went away; the container runs on. Its output is in the log.
		if !req.Tty && !req.AttachStdin {
			err = o.resume(ctx, api, id, client.LogsOptions{Stdout: o.out.w != nil, Stderr: o.err.w != nil, Tail: "all", Follow: true})
		}
		if err == nil || lost(ctx, err) || errdefs.IsNotFound(err) {
			res, err = waitAgain(ctx, api, id, condition)
		}
	}
	if err != nil {
		return runStatus(err)
	}
	if res.Error != nil && res.Error.Message != "" {
		return runStatus(&client.Error{Message: res.Error.Message})
	}
	return exitCode(res.StatusCode)
}

// startFailures map what engines say when a program cannot be started to exit
// codes; the first match counts.
var startFailures = []struct {
	text string
	code int
}{
	{"executable file not found", exitNotFound},
	{"no such file or directory", exitNotFound},
	{"system cannot find the file specified", exitNotFound},
	{"permission denied", exitNotRunable},
	{"is a directory", exitNotRunable},
	{"exec format error", exitNotRunable},
}

// runStatus is a failure before or instead of the container's own exit code.
func runStatus(err error) error {
	var st *statusError
	if errors.As(err, &st) {
		return err
	}
	code := exitUsage
	var api *client.Error
	if errors.As(err, &api) {
		for _, f := range startFailures {
			if strings.Contains(api.Message, f.text) {
				code = f.code
				break
			}
		}
	}
	var conn *client.ConnectError
	if errors.As(err, &conn) {
		return &statusError{code: code, err: fmt.Errorf("caisson: %w", err)}
	}
	return &statusError{code: code, err: fmt.Errorf("caisson: %w\n\nRun 'caisson run --help' for more information", err)}
}

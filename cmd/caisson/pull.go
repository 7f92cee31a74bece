package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/progress"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/refs"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/tty"
	"github.com/caisson-engine/caisson/engine/client"
)

var pullCommand = command{
	name:  "pull",
	args:  "[OPTIONS] NAME[:TAG|@DIGEST]",
	short: "Download an image from a registry",
	examples: []string{
		"pull debian:12 # Download one tag",
		"pull --platform linux/arm64 alpine # Download for another platform",
		"pull registry.example.com/team/app@sha256:… # Download exactly this content",
	},
	sameAs: []string{"image pull", "pull"},
	min:    1,
	max:    1,
	flags:  map[string]completer{"platform": completePlatforms},
	setup: func(a *app, f *pflag.FlagSet) action {
		var all, quiet bool
		var platform string
		f.BoolVarP(&all, "all-tags", "a", false, "Download all tagged images in the repository")
		f.BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
		f.StringVar(&platform, "platform", os.Getenv("CAISSON_DEFAULT_PLATFORM"), "Set platform if server is multi-platform capable")
		hiddenTrustFlag(f)
		return func(ctx context.Context, args []string) error {
			ref := refs.Parse(args[0])
			tag := ref.Version()
			switch {
			case all && (ref.Tag != "" || ref.Digest != ""):
				return errors.New("tag can't be used with --all-tags/-a")
			case all:
				tag = ""
			case ref.Tag == "" && ref.Digest == "" && !quiet:
				fmt.Fprintln(a.out, "Using default tag: latest")
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			out := a.out
			if quiet {
				out = io.Discard
			}
			if err := a.pull(ctx, api, ref, tag, platform, out, a.outTTY); err != nil {
				return err
			}
			if all {
				fmt.Fprintln(a.out, ref.Name())
				return nil
			}
			fmt.Fprintln(a.out, ref.Name()+separator(ref)+tag)
			return nil
		}
	},
}

func separator(r refs.Ref) string {
	if r.Digest != "" {
		return "@"
	}
	return ":"
}

// pullImage pulls what an image argument of run or create means.
func (a *app) pullImage(ctx context.Context, api *client.Client, image, platform string, out io.Writer, t tty.Terminal) error {
	ref := refs.Parse(image)
	return a.pull(ctx, api, ref, ref.Version(), platform, out, t)
}

func (a *app) pull(ctx context.Context, api *client.Client, ref refs.Ref, tag, platform string, out io.Writer, t tty.Terminal) error {
	auth, err := a.credentials().Get(ref.Domain)
	if err != nil {
		fmt.Fprintln(a.err, "WARNING:", err)
	}
	m, err := api.Pull(ctx, ref.Name(), tag, platform, auth)
	if err != nil {
		return err
	}
	defer m.Close()
	return showProgress(m, out, t, nil)
}

// showProgress shows what the engine reports, with bars if t, the terminal
// behind out, is one. aux gets what is meant for programs.
func showProgress(m *client.Messages, out io.Writer, t tty.Terminal, aux func([]byte)) error {
	o := progress.Options{Out: out, Aux: aux}
	if t.Is() && out != io.Discard {
		o.Size = t.Size
		restore, err := t.RawOutput() // Windows draws nothing without
		if err != nil {
			return err
		}
		defer restore()
	}
	return progress.Show(m, o)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/refs"
)

var composePullCommand = command{
	name:     "pull",
	args:     "[OPTIONS] [SERVICE...]",
	short:    "Pull service images",
	examples: []string{"compose pull --ignore-pull-failures # All that can be had"},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		buildable := f.Bool("ignore-buildable", false, "Ignore images that can be built")
		failures := f.Bool("ignore-pull-failures", false, "Pull what it can and ignores images with pull failures")
		deps := f.Bool("include-deps", false, "Also pull services declared as dependencies")
		policy := f.String("policy", "", `Apply pull policy ("missing"|"always")`)
		quiet := f.BoolP("quiet", "q", false, "Pull without printing progress information")
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			out := a.err
			if *quiet {
				out = io.Discard
			}
			return a.eachImage(r, services, *deps, *buildable, *failures, func(s *compose.Service) error {
				if *policy == "missing" {
					if _, err := r.API.ImageInspect(ctx, s.Image, ""); err == nil {
						return nil
					}
				}
				return a.pullImage(ctx, r.API, s.Image, s.Platform, out, a.errTTY)
			})
		}
	},
}

var composePushCommand = command{
	name:     "push",
	args:     "[OPTIONS] [SERVICE...]",
	short:    "Push service images",
	examples: []string{"compose push app # Its image, to its registry"},
	max:      -1,
	complete: completeServices,
	setup: func(a *app, f *pflag.FlagSet) action {
		failures := f.Bool("ignore-push-failures", false, "Push what it can and ignores images with push failures")
		deps := f.Bool("include-deps", false, "Also push images of services declared as dependencies")
		quiet := f.BoolP("quiet", "q", false, "Push without printing progress information")
		return func(ctx context.Context, services []string) error {
			r, err := a.project(ctx, services...)
			if err != nil {
				return err
			}
			out := a.err
			if *quiet {
				out = io.Discard
			}
			return a.eachImage(r, services, *deps, false, *failures, func(s *compose.Service) error {
				ref := refs.Parse(s.Image)
				auth, err := a.credentials().Get(ref.Domain)
				if err != nil {
					fmt.Fprintln(a.err, "WARNING:", err)
				}
				m, err := r.API.Push(ctx, ref.Name(), ref.Version(), s.Platform, auth)
				if err != nil {
					return err
				}
				defer m.Close()
				return showProgress(m, out, a.errTTY, nil)
			})
		}
	},
}

// eachImage calls f for the first service of each image.
func (a *app) eachImage(r *compose.Runner, services []string, deps, skipBuilt, tolerant bool, f func(*compose.Service) error) error {
	var done []string
	var errs []error
	for _, s := range r.Project.Select(services, deps) {
		if slices.Contains(done, s.Image) || skipBuilt && s.Build {
			continue
		}
		done = append(done, s.Image)
		err := f(s)
		if err != nil && tolerant {
			fmt.Fprintf(a.err, "WARNING: %s: %v\n", s.Image, err)
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Image, err))
		}
	}
	return errors.Join(errs...)
}

var composeCpCommand = command{
	name:  "cp",
	args:  "[OPTIONS] SERVICE:SRC_PATH DEST_PATH|- | SRC_PATH|- SERVICE:DEST_PATH",
	short: "Copy files/folders between a service container and the local filesystem",
	examples: []string{
		"compose cp db:/var/lib/postgresql/dump.sql . # From the service's first container",
		"compose cp --index 2 seed.sql db:/tmp # Into its second",
	},
	min: 2,
	max: 2,
	setup: func(a *app, f *pflag.FlagSet) action {
		index := indexFlag(f)
		copy := cpCommand.setup(a, f)
		return func(ctx context.Context, args []string) error {
			r, err := a.project(ctx)
			if err != nil {
				return err
			}
			for i, arg := range args {
				service, path := splitCopyArg(arg)
				if service == "" {
					continue
				}
				c, err := r.One(ctx, service, *index)
				if err != nil {
					return err
				}
				args[i] = c.ID + ":" + path
			}
			return copy(ctx, args)
		}
	},
}

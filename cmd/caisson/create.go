package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/opts"
	"github.com/caisson-engine/caisson/cmd/caisson/internal/refs"
	"github.com/caisson-engine/caisson/engine/client"
)

var createCommand = command{
	name:  "create",
	args:  "[OPTIONS] IMAGE [COMMAND] [ARG...]",
	short: "Create a new container",
	examples: []string{
		"create --name web -p 8080:80 nginx # Prepare a web server; `caisson start web` starts it",
		"create -it debian bash # Prepare a shell; `caisson start -ai ID` enters it",
	},
	sameAs:   []string{"container create", "create"},
	min:      1,
	max:      -1,
	flat:     true,
	complete: completeFirst(completeImages),
	flags:    createCompletions,
	setup: func(a *app, f *pflag.FlagSet) action {
		c := newCreator(a, f)
		return func(ctx context.Context, args []string) error {
			req, err := c.request(args)
			if err != nil {
				return usageStatus("create", err)
			}
			out, err := c.create(ctx, req)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, out.ID)
			return nil
		}
	},
}

// creator makes containers the way run and create do.
type creator struct {
	app      *app
	f        *pflag.FlagSet
	opts     opts.Container
	name     string
	platform string
	pull     string
	quiet    bool
}

func newCreator(a *app, f *pflag.FlagSet) *creator {
	c := &creator{app: a, f: f}
	c.opts.Register(f)
	f.StringVar(&c.name, "name", "", "Assign a name to the container")
	f.StringVar(&c.platform, "platform", os.Getenv("CAISSON_DEFAULT_PLATFORM"), "Set platform if server is multi-platform capable")
	f.StringVar(&c.pull, "pull", "missing", `Pull image before running ("always", "missing", "never")`)
	f.BoolVarP(&c.quiet, "quiet", "q", false, "Suppress the pull output")
	hiddenTrustFlag(f)
	return c
}

// hiddenTrustFlag accepts a flag of Docker's that means nothing any more.
func hiddenTrustFlag(f *pflag.FlagSet) {
	f.Bool("disable-content-trust", true, "Skip image verification (accepted for Docker's sake; it does nothing)")
	f.Lookup("disable-content-trust").Hidden = true
}

func (c *creator) request(args []string) (*client.CreateRequest, error) {
	switch c.pull {
	case "always", "missing", "never", "":
	default:
		return nil, fmt.Errorf("invalid pull option: '%s': must be one of \"always\", \"missing\" or \"never\"", c.pull)
	}
	return c.opts.Request(c.f, args[0], args[1:])
}

// usageStatus is an error of the command line's, before anything was done.
func usageStatus(verb string, err error) error {
	return &statusError{code: exitUsage, err: fmt.Errorf("caisson: %w\n\nRun 'caisson %s --help' for more information", err, verb)}
}

// create makes the container and, if its image is not there, pulls that first.
func (c *creator) create(ctx context.Context, req *client.CreateRequest) (client.CreateResponse, error) {
	var out client.CreateResponse
	api, err := c.app.client()
	if err != nil {
		return out, err
	}
	cid, err := openCIDFile(c.opts.CIDFile())
	if err != nil {
		return out, err
	}
	defer cid.close()
	if c.pull == "always" {
		if err := c.pullImage(ctx, api, req.Image); err != nil {
			return out, err
		}
	}
	if rows, cols, ok := c.app.outTTY.Size(); ok {
		req.HostConfig.ConsoleSize = [2]uint{rows, cols}
	}
	out, err = api.Create(ctx, *req, c.name, c.platform)
	if errdefs.IsNotFound(err) && imageMissing(err) && (c.pull == "missing" || c.pull == "") && !refs.IsID(req.Image) {
		if !c.quiet {
			ref := refs.Parse(req.Image)
			if ref.Tag == "" && ref.Digest == "" {
				ref.Tag = "latest"
			}
			fmt.Fprintf(c.app.err, "Unable to find image '%s' locally\n", ref)
		}
		if err := c.pullImage(ctx, api, req.Image); err != nil {
			return out, err
		}
		out, err = api.Create(ctx, *req, c.name, c.platform)
	}
	if err != nil {
		return out, err
	}
	for _, w := range out.Warnings {
		fmt.Fprintln(c.app.err, "WARNING:", w)
	}
	return out, cid.write(out.ID)
}

// imageMissing tells a missing image from a missing volume, network or container.
func imageMissing(err error) bool {
	return strings.Contains(strings.ToLower(err.Error()), "image")
}

func (c *creator) pullImage(ctx context.Context, api *client.Client, image string) error {
	out := c.app.err
	if c.quiet {
		out = io.Discard
	}
	return c.app.pullImage(ctx, api, image, c.platform, out, c.app.errTTY)
}

// cidFile is the file of --cidfile: it must be new, and does not stay if no
// container was made.
type cidFile struct {
	f    *os.File
	done bool
}

func openCIDFile(path string) (*cidFile, error) {
	if path == "" {
		return &cidFile{}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, errors.New("container ID file found, make sure the other container isn't running or delete " + path)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to create the container ID file: %w", err)
	}
	return &cidFile{f: f}, nil
}

func (c *cidFile) write(id string) error {
	if c.f == nil {
		return nil
	}
	if _, err := c.f.WriteString(id); err != nil {
		return fmt.Errorf("failed to write the container ID (%s) to file: %w", id, err)
	}
	c.done = true
	return nil
}

func (c *cidFile) close() {
	if c.f == nil {
		return
	}
	c.f.Close()
	if !c.done {
		os.Remove(c.f.Name())
	}
}

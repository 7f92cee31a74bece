package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/images"
)

// Commit makes an image of what a container changed on top of its own. A
// running container is paused meanwhile if the request says so and its backend
// can.
func (e *Engine) Commit(ctx context.Context, ref string, r CommitRequest) (string, error) {
	f, err := e.filesOf(ctx, ref)
	if err != nil {
		return "", err
	}
	config := runConfig(f.rec.Config)
	if r.Config != nil {
		overlay(&config, runConfig(r.Config))
	}
	if err := ApplyChanges(&config, r.Changes); err != nil {
		return "", err
	}
	if r.Pause && f.state == container.Running {
		switch err := e.Pause(ctx, f.rec.ID); {
		case err == nil:
			defer func() {
				if err := e.Unpause(context.WithoutCancel(ctx), f.rec.ID); err != nil {
					e.log.Error("cannot resume a container after its commit", "container", f.rec.ID, "error", err)
				}
			}()
		case !errdefs.IsNotImplemented(err) && !errdefs.IsConflict(err):
			return "", err
		}
	}
	layer, err := f.ReadDiff(ctx, f.target)
	if err != nil {
		return "", err
	}
	defer layer.Close()
	img, err := e.cfg.Images.Commit(ctx, images.CommitOptions{
		Base:     digest.Digest(f.rec.Image),
		Platform: &ocispec.Platform{OS: f.rec.OS, Architecture: f.rec.Arch},
		Ref:      r.Reference, Config: config, Author: r.Author, Comment: r.Comment,
		CreatedBy: strings.Join(slices.Concat(f.rec.Config.Entrypoint, f.rec.Config.Cmd), " "),
	}, layer)
	if err != nil {
		return "", err
	}
	e.emit(f.rec, events.ActionCommit, "comment", r.Comment, "imageID", img.ID.String(), "imageRef", r.Reference)
	return img.ID.String(), nil
}

// runConfig is what of a container's configuration belongs to an image.
func runConfig(c *apicontainer.Config) images.RunConfig {
	r := images.RunConfig{
		ImageConfig: ocispec.ImageConfig{
			User: c.User, Env: slices.Clone(c.Env), Entrypoint: c.Entrypoint, Cmd: c.Cmd,
			Volumes: c.Volumes, WorkingDir: c.WorkingDir, StopSignal: c.StopSignal,
			Labels: map[string]string{}, ExposedPorts: map[string]struct{}{},
		},
		OnBuild: c.OnBuild, Shell: c.Shell,
	}
	for k, v := range c.Labels {
		r.Labels[k] = v
	}
	for p := range c.ExposedPorts {
		r.ExposedPorts[p.String()] = struct{}{}
	}
	if h := c.Healthcheck; h != nil {
		r.Healthcheck = &images.Healthcheck{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout,
			StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
		}
	}
	return r
}

// overlay puts what over says on top of base.
func overlay(base *images.RunConfig, over images.RunConfig) {
	for _, s := range []struct {
		to   *string
		from string
	}{{&base.User, over.User}, {&base.WorkingDir, over.WorkingDir}, {&base.StopSignal, over.StopSignal}} {
		if s.from != "" {
			*s.to = s.from
		}
	}
	if len(over.Entrypoint) > 0 {
		base.Entrypoint = over.Entrypoint
	}
	if len(over.Cmd) > 0 {
		base.Cmd = over.Cmd
	}
	for _, kv := range over.Env {
		setEnv(base, kv)
	}
	for k, v := range over.Labels {
		base.Labels[k] = v
	}
	for p := range over.ExposedPorts {
		base.ExposedPorts[p] = struct{}{}
	}
	if over.Healthcheck != nil {
		base.Healthcheck = over.Healthcheck
	}
}

func setEnv(c *images.RunConfig, kv string) {
	key, _, _ := strings.Cut(kv, "=")
	c.Env = slices.DeleteFunc(c.Env, func(have string) bool {
		k, _, _ := strings.Cut(have, "=")
		return k == key
	})
	c.Env = append(c.Env, kv)
}

// changes are the Dockerfile instructions that commit and import accept, each
// with what it does to an image's configuration.
var changes = map[string]func(c *images.RunConfig, arg string) error{
	"CMD":        func(c *images.RunConfig, arg string) error { c.Cmd = words(arg, c.Shell); return nil },
	"ENTRYPOINT": func(c *images.RunConfig, arg string) error { c.Entrypoint = words(arg, c.Shell); return nil },
	"USER":       func(c *images.RunConfig, arg string) error { c.User = arg; return nil },
	"WORKDIR":    func(c *images.RunConfig, arg string) error { c.WorkingDir = arg; return nil },
	"STOPSIGNAL": func(c *images.RunConfig, arg string) error { c.StopSignal = arg; return nil },
	"ONBUILD":    func(c *images.RunConfig, arg string) error { c.OnBuild = append(c.OnBuild, arg); return nil },
	"ENV": func(c *images.RunConfig, arg string) error {
		return pairs(arg, func(k, v string) { setEnv(c, k+"="+v) })
	},
	"LABEL": func(c *images.RunConfig, arg string) error {
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		return pairs(arg, func(k, v string) { c.Labels[k] = v })
	},
	"EXPOSE": func(c *images.RunConfig, arg string) error {
		if c.ExposedPorts == nil {
			c.ExposedPorts = map[string]struct{}{}
		}
		for _, p := range strings.Fields(arg) {
			if !strings.Contains(p, "/") {
				p += "/tcp"
			}
			c.ExposedPorts[p] = struct{}{}
		}
		return nil
	},
	"VOLUME": func(c *images.RunConfig, arg string) error {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		list, ok := jsonList(arg)
		if !ok {
			list = strings.Fields(arg)
		}
		for _, v := range list {
			c.Volumes[v] = struct{}{}
		}
		return nil
	},
}

// applyChange carries out one instruction.
func applyChange(c *images.RunConfig, change string) error {
	name, arg, _ := strings.Cut(strings.TrimSpace(change), " ")
	f, ok := changes[strings.ToUpper(name)]
	arg = strings.TrimSpace(arg)
	if !ok {
		return fmt.Errorf("%s is not a valid change command: use one of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR: %w", name, errdefs.ErrInvalidArgument)
	}
	if arg == "" {
		return fmt.Errorf("change %s needs an argument: %w", strings.ToUpper(name), errdefs.ErrInvalidArgument)
	}
	return f(c, arg)
}

// ApplyChanges carries out Dockerfile instructions on an image's configuration,
// as import has them.
func ApplyChanges(c *images.RunConfig, list []string) error {
	for _, change := range list {
		if err := applyChange(c, change); err != nil {
			return err
		}
	}
	return nil
}

func jsonList(arg string) (list []string, ok bool) {
	return list, strings.HasPrefix(arg, "[") && json.Unmarshal([]byte(arg), &list) == nil
}

// words is a command in exec form, or in shell form through the image's shell.
func words(arg string, shell []string) []string {
	if list, ok := jsonList(arg); ok {
		return list
	}
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), arg)
}

// pairs reads KEY=VALUE words, where a value may be quoted, or one "KEY VALUE".
func pairs(arg string, set func(k, v string)) error {
	first, rest, _ := strings.Cut(arg, " ")
	if !strings.Contains(first, "=") {
		if rest == "" {
			return fmt.Errorf("%q is not KEY=VALUE: %w", arg, errdefs.ErrInvalidArgument)
		}
		set(first, strings.TrimSpace(rest))
		return nil
	}
	list, err := splitQuoted(arg)
	if err != nil {
		return err
	}
	for _, word := range list {
		k, v, ok := strings.Cut(word, "=")
		if !ok || k == "" {
			return fmt.Errorf("%q is not KEY=VALUE: %w", word, errdefs.ErrInvalidArgument)
		}
		set(k, v)
	}
	return nil
}

// splitQuoted splits at spaces outside quotes and takes the quotes away.
func splitQuoted(s string) ([]string, error) {
	var out []string
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, inWord = r, true
		case r == ' ' || r == '\t':
			if inWord {
				out = append(out, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("unterminated quote in %q: %w", s, errdefs.ErrInvalidArgument)
	}
	if inWord {
		out = append(out, word.String())
	}
	return out, nil
}

package engine

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/logs"
)

// Logs reads what a container wrote; see dockerapi.Engine.
func (e *Engine) Logs(ctx context.Context, ref string, o LogsOptions, ready func(tty bool) error, fn func(logs.Record) error) error {
	c, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	if !o.Stdout && !o.Stderr {
		return invalid("Bad parameters: you must choose at least one stream")
	}
	rec, _ := c.view()
	if rec.Host.LogConfig.Type == logs.None {
		return fmt.Errorf("configured logging driver does not support reading: %w", errdefs.ErrNotImplemented)
	}
	lo := logs.Options{Stdout: o.Stdout, Stderr: o.Stderr, Since: o.Since, Until: o.Until, Tail: o.Tail, Follow: o.Follow}
	if rec.Config.Tty {
		lo.Stdout, lo.Stderr = true, true // a terminal has one stream
	}
	if o.Follow {
		ended, stop := c.following()
		defer stop()
		lo.Ended = ended
	}
	if err := ready(rec.Config.Tty); err != nil {
		return err
	}
	return logs.Read(ctx, logConfig(rec), lo, fn)
}

// following returns a channel that is closed at the end of the container's run;
// already if it does not run.
func (c *ctr) following() (ended <-chan struct{}, stop func()) {
	ch := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.st.State; !s.Alive() && s != container.Starting && s != container.Restarting {
		close(ch)
		return ch, func() {}
	}
	w := c.register(false)
	done := make(chan struct{})
	go func() {
		select {
		case <-w.ch:
			close(ch)
		case <-done:
		}
	}()
	return ch, func() {
		close(done)
		c.forget(w)
	}
}

// logFile is the name that tools know a driver's file by; "" if it has none.
func logFile(driver, id string) string {
	switch driver {
	case logs.None:
		return ""
	case logs.JSONFile:
		return id + "-json.log"
	default:
		return "container.log"
	}
}

func logConfig(rec *container.Record) logs.Config {
	return logs.Config{Driver: rec.Host.LogConfig.Type, Path: rec.LogPath, Options: rec.Host.LogConfig.Config}
}

// logAttrs are the labels and variables that the log options choose, to be
// added to each record.
func logAttrs(l apicontainer.LogConfig, c *apicontainer.Config) map[string]string {
	attrs := map[string]string{}
	env := map[string]string{}
	for _, kv := range c.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	for opt, from := range map[string]map[string]string{"labels": c.Labels, "env": env} {
		for name := range strings.SplitSeq(l.Config[opt], ",") {
			if v, ok := from[name]; ok && name != "" {
				attrs[name] = v
			}
		}
		if re, err := regexp.Compile(l.Config[opt+"-regex"]); err == nil && l.Config[opt+"-regex"] != "" {
			maps.Copy(attrs, matching(from, re))
		}
	}
	if tag := l.Config["tag"]; tag != "" {
		attrs["tag"] = tag
	}
	if len(attrs) == 0 {
		return nil
	}
	return attrs
}

func matching(from map[string]string, re *regexp.Regexp) map[string]string {
	out := map[string]string{}
	for k, v := range from {
		if re.MatchString(k) {
			out[k] = v
		}
	}
	return out
}

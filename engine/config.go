package engine

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/logs"
	"github.com/caisson-engine/caisson/engine/spec"
	"github.com/caisson-engine/caisson/images"
)

func invalid(format string, a ...any) error {
	return fmt.Errorf(format+": %w", append(a, errdefs.ErrInvalidArgument)...)
}

const namePattern = `[a-zA-Z0-9][a-zA-Z0-9_.-]`

var nameRE = regexp.MustCompile(`^/?` + namePattern + `+$`)

// maxName bounds a container's name: it becomes a host name's alias and a part of messages.
const maxName = 255

func checkName(name string) (string, error) {
	if !nameRE.MatchString(name) || len(name) > maxName {
		return "", invalid("Invalid container name (%s), only %s are allowed", name, namePattern)
	}
	return strings.TrimPrefix(name, "/"), nil
}

// mergeConfig puts the image's config under the client's.
func mergeConfig(user *apicontainer.Config, img *images.RunConfig) (*apicontainer.Config, error) {
	c := *user
	if c.User == "" {
		c.User = img.User
	}
	c.Env = mergeEnv(c.Env, img.Env)
	c.Labels = merge(c.Labels, img.Labels)
	if c.WorkingDir == "" {
		c.WorkingDir = img.WorkingDir
	}
	if c.StopSignal == "" {
		c.StopSignal = img.StopSignal
	}
	c.Volumes = merge(c.Volumes, img.Volumes)
	if len(img.ExposedPorts) > 0 {
		c.ExposedPorts = maps.Clone(c.ExposedPorts)
		if c.ExposedPorts == nil {
			c.ExposedPorts = apinetwork.PortSet{}
		}
		for p := range img.ExposedPorts {
			port, err := apinetwork.ParsePort(p)
			if err != nil {
				return nil, invalid("the image exposes an invalid port: %v", err)
			}
			c.ExposedPorts[port] = struct{}{}
		}
	}
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = img.Cmd
		}
		if c.Entrypoint == nil {
			c.Entrypoint = img.Entrypoint
		}
	}
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		c.Entrypoint = nil // how a client says "none"
	}
	mergeHealth(&c, img.Healthcheck)
	if len(c.Entrypoint) == 0 && len(c.Cmd) == 0 {
		return nil, invalid("no command specified")
	}
	if _, err := parseSignal(c.StopSignal); c.StopSignal != "" && err != nil {
		return nil, err
	}
	for _, kv := range c.Env {
		if kv == "" || strings.HasPrefix(kv, "=") {
			return nil, invalid("invalid environment variable: %s", kv)
		}
	}
	return &c, nil
}

// mergeEnv adds the image's variables that the client does not set.
func mergeEnv(user, img []string) []string {
	out := slices.Clone(user)
	for _, kv := range img {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(user, func(u string) bool {
			n, _, _ := strings.Cut(u, "=")
			return n == name
		}) {
			out = append(out, kv)
		}
	}
	return out
}

// merge is over with what only under has.
func merge[V any](over, under map[string]V) map[string]V {
	if len(under) == 0 {
		return over
	}
	out := maps.Clone(under)
	maps.Copy(out, over)
	return out
}

func mergeHealth(c *apicontainer.Config, img *images.Healthcheck) {
	if img == nil {
		return
	}
	h := apicontainer.HealthConfig{}
	if c.Healthcheck != nil {
		h = *c.Healthcheck
	}
	if len(h.Test) == 0 {
		h.Test = img.Test
	}
	if h.Interval == 0 {
		h.Interval = img.Interval
	}
	if h.Timeout == 0 {
		h.Timeout = img.Timeout
	}
	if h.StartPeriod == 0 {
		h.StartPeriod = img.StartPeriod
	}
	if h.StartInterval == 0 {
		h.StartInterval = img.StartInterval
	}
	if h.Retries == 0 {
		h.Retries = img.Retries
	}
	c.Healthcheck = &h
}

// fillHost completes and checks a HostConfig in place. rec.Host is a copy of
// the client's, but what it points to is not.
func (e *Engine) fillHost(ctx context.Context, rec *container.Record, d Defaults) error {
	h := rec.Host
	if err := apicontainer.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return invalid("%v", err)
	}
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = apicontainer.RestartPolicyDisabled
	}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return invalid("can't create 'AutoRemove' container with restart policy")
	}
	if err := fillLog(h, d); err != nil {
		return err
	}
	if err := spec.ValidateModes(h); err != nil {
		return err
	}
	h.CgroupnsMode = def(h.CgroupnsMode, def(apicontainer.CgroupnsMode(d.CgroupnsMode), apicontainer.CgroupnsModePrivate))
	h.IpcMode = def(h.IpcMode, def(apicontainer.IpcMode(d.IpcMode), apicontainer.IPCModePrivate))
	h.CgroupParent = def(h.CgroupParent, d.CgroupParent)
	if h.ShmSize < 0 {
		return invalid("SHM size can not be less than 0")
	}
	h.ShmSize = def(h.ShmSize, def(d.ShmSize, spec.DefaultShm))
	if h.Init == nil && d.Init {
		on := true
		h.Init = &on
	}
	if h.Memory > 0 && h.MemorySwap == 0 {
		h.MemorySwap = 2 * h.Memory
	}
	if n := e.cfg.Host.NCPU; n > 0 && h.NanoCPUs > int64(n)*1e9 {
		return invalid("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", n, n)
	}
	if n := e.cfg.Host.NCPU; n > 0 && spec.HighestInSet(h.CpusetCpus) >= n {
		return invalid("Requested CPUs are not available - requested %s, available: 0-%d", h.CpusetCpus, n-1)
	}
	spec.PathDefaults(h, e.thermal)
	h.Annotations = maps.Clone(h.Annotations)
	maps.DeleteFunc(h.Annotations, func(k, _ string) bool { return strings.HasPrefix(k, ownPrefix) })
	if err := e.joinModes(ctx, h); err != nil {
		return err
	}
	if err := e.fillNetwork(rec); err != nil {
		return err
	}
	if t := rec.Config.StopTimeout; t != nil && *t < -1 {
		return invalid("invalid stop timeout: %d", *t)
	}
	return checkHealth(rec.Config.Healthcheck)
}

// ownPrefix is of annotations that inspect adds: a client that creates a
// container like another one sends them back.
const ownPrefix = "caisson."

// def is v, or d if v is its type's zero.
func def[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

func fillLog(h *apicontainer.HostConfig, d Defaults) error {
	l := &h.LogConfig
	if l.Type == "" || l.Type == d.LogDriver {
		// The engine's options are for its own driver only.
		l.Config = merge(l.Config, d.LogOpts)
	}
	l.Type = def(l.Type, def(d.LogDriver, logs.JSONFile))
	if l.Config == nil {
		l.Config = map[string]string{}
	}
	return logs.Validate(l.Type, l.Config)
}

// joinModes turns the names in container:<name> modes into ids, which stay
// true when the other is renamed.
func (e *Engine) joinModes(ctx context.Context, h *apicontainer.HostConfig) error {
	for _, m := range []struct {
		get string
		set func(string)
	}{
		{string(h.NetworkMode), func(v string) { h.NetworkMode = apicontainer.NetworkMode(v) }},
		{string(h.IpcMode), func(v string) { h.IpcMode = apicontainer.IpcMode(v) }},
		{string(h.PidMode), func(v string) { h.PidMode = apicontainer.PidMode(v) }},
	} {
		ref, ok := strings.CutPrefix(m.get, "container:")
		if !ok {
			continue
		}
		other, err := e.enter(ctx, ref)
		if err != nil {
			return err
		}
		m.set("container:" + other.id)
	}
	return nil
}

// fillNetwork settles the network mode and the host name.
func (e *Engine) fillNetwork(rec *container.Record) error {
	h, c := rec.Host, rec.Config
	switch {
	case c.NetworkDisabled:
		h.NetworkMode = apinetwork.NetworkNone
	case h.NetworkMode == "" || h.NetworkMode.IsDefault():
		h.NetworkMode = apinetwork.NetworkBridge
		for name := range rec.Endpoints {
			if len(rec.Endpoints) == 1 && name != apinetwork.NetworkDefault {
				h.NetworkMode = apicontainer.NetworkMode(name)
			}
		}
	}
	mode := h.NetworkMode
	e.settleEndpoints(rec)
	if own := mode.IsHost() || mode.IsNone() || mode.IsContainer(); own && len(rec.Endpoints) > 0 {
		return invalid("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
	}
	if mode.IsContainer() {
		for what, set := range map[string]bool{
			"hostname":                  c.Hostname != "",
			"port publishing":           len(h.PortBindings) > 0 || h.PublishAllPorts,
			"port exposing":             len(c.ExposedPorts) > 0 && len(h.PortBindings) > 0,
			"custom host-to-IP mapping": len(h.ExtraHosts) > 0,
			"dns":                       len(h.DNS) > 0,
		} {
			if set {
				return invalid("conflicting options: %s and the container type network mode", what)
			}
		}
	}
	if h.UTSMode.IsHost() && (c.Hostname != "" || c.Domainname != "") {
		return invalid("conflicting options: hostname and the UTS mode")
	}
	if len(c.Hostname) > 63 {
		return invalid("invalid hostname: %s: longer than 63 bytes", c.Hostname)
	}
	if len(c.Domainname) > 64 {
		return invalid("invalid domain name: %s: longer than 64 bytes", c.Domainname)
	}
	switch {
	case len(h.Links) == 0 || mode.IsBridge():
	case mode.IsUserDefined():
		// Clients name them here, too.
		if s := rec.Endpoints[string(mode)]; len(s.Links) == 0 {
			s.Links = h.Links
		}
	default:
		return invalid("conflicting options: %s type networking can't be used with links. This would result in undefined behavior", mode.NetworkName())
	}
	if c.Hostname == "" && !mode.IsHost() && !mode.IsContainer() && !h.UTSMode.IsHost() {
		c.Hostname = rec.ID[:12]
	}
	for p := range h.PortBindings {
		// What is published is exposed.
		if _, ok := c.ExposedPorts[p]; !ok {
			c.ExposedPorts = maps.Clone(c.ExposedPorts)
			if c.ExposedPorts == nil {
				c.ExposedPorts = apinetwork.PortSet{}
			}
			c.ExposedPorts[p] = struct{}{}
		}
	}
	return nil
}

// checkHealth refuses a health check that could never run as written.
func checkHealth(h *apicontainer.HealthConfig) error {
	if h == nil {
		return nil
	}
	for name, d := range map[string]time.Duration{
		"Interval": h.Interval, "Timeout": h.Timeout, "StartPeriod": h.StartPeriod, "StartInterval": h.StartInterval,
	} {
		if d != 0 && d < apicontainer.MinimumDuration {
			return invalid("%s in Healthcheck cannot be less than %s", name, apicontainer.MinimumDuration)
		}
	}
	if len(h.Test) > 0 {
		switch kind := h.Test[0]; {
		case kind == "" || kind == "NONE":
		case kind != "CMD" && kind != "CMD-SHELL":
			return invalid("Unknown Healthcheck type %q: there are CMD, CMD-SHELL and NONE", kind)
		case len(h.Test) < 2:
			return invalid("Healthcheck %s has no command", kind)
		}
	}
	if h.Retries < 0 {
		return invalid("Retries in Healthcheck cannot be negative")
	}
	return nil
}

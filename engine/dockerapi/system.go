package dockerapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"github.com/caisson-engine/caisson/images"
)

// hostOS is what clients learn of the host: they choose defaults by it.
const hostOS = runtime.GOOS

// ping is what clients send first, to learn the version and what builder to use.
// "1" keeps them from BuildKit's interface, which is not there.
func (c *call) ping() error {
	h := c.w.Header()
	h.Set("Builder-Version", "1")
	h.Set("Swarm", "inactive")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if c.r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return nil
	}
	h.Set("Content-Length", "2")
	_, _ = c.w.Write([]byte("OK")) // the client may be gone
	return nil
}

func (c *call) versionInfo() error {
	v := system.VersionResponse{
		Version:       c.cfg.Version,
		APIVersion:    MaxVersion,
		MinAPIVersion: MinVersion,
		Os:            hostOS,
		Arch:          runtime.GOARCH,
		GitCommit:     c.cfg.GitCommit,
		GoVersion:     runtime.Version(),
		KernelVersion: c.cfg.Kernel,
		BuildTime:     c.cfg.BuildTime,
		Platform:      system.PlatformInfo{Name: "Caisson Engine"},
	}
	v.Components = []system.ComponentVersion{{
		Name:    "Engine",
		Version: v.Version,
		Details: map[string]string{
			"ApiVersion":    v.APIVersion,
			"MinAPIVersion": v.MinAPIVersion,
			"Os":            v.Os,
			"Arch":          v.Arch,
			"GitCommit":     v.GitCommit,
			"GoVersion":     v.GoVersion,
			"KernelVersion": v.KernelVersion,
			"BuildTime":     v.BuildTime,
			"Experimental":  "false",
		},
	}}
	backends, err := c.eng.Backends(c.ctx())
	if err != nil {
		return err
	}
	for _, b := range backends {
		d := map[string]string{"Os": b.OS, "Arch": b.Arch, "Path": b.Path}
		if b.Problem != "" {
			d["Problem"] = b.Problem
		}
		v.Components = append(v.Components, system.ComponentVersion{Name: "backend " + b.Name, Version: b.Version, Details: d})
	}
	return c.json(http.StatusOK, v)
}

func (c *call) info() error {
	info, err := c.eng.Info(c.ctx())
	if err != nil {
		return err
	}
	if info.ServerVersion == "" {
		info.ServerVersion = c.cfg.Version
	}
	info.Swarm.LocalNodeState = swarm.LocalNodeStateInactive
	if info.Warnings == nil {
		info.Warnings = []string{}
	}
	if c.version >= 50 {
		return c.json(http.StatusOK, info)
	}
	// Clients of that age warn on their own when these are false. They speak of
	// a module that is loaded on demand since.
	return c.json(http.StatusOK, struct {
		system.Info
		BridgeNfIptables  bool
		BridgeNfIp6tables bool //nolint:revive // the name in the API
	}{info, true, true})
}

func (c *call) backends() error {
	b, err := c.eng.Backends(c.ctx())
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, b)
}

func (c *call) auth() error {
	var a registry.AuthConfig
	if _, err := c.readJSON(maxBody, &a); err != nil {
		return err
	}
	token, err := c.images.Login(c.ctx(), a.ServerAddress, images.Auth{
		Username:      a.Username,
		Password:      a.Password,
		IdentityToken: a.IdentityToken,
		RegistryToken: a.RegistryToken,
		ServerAddress: a.ServerAddress,
	})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, registry.AuthResponse{IdentityToken: token, Status: "Login Succeeded"})
}

// eventMedia are the framings of the event stream that a client can ask for.
var eventMedia = []struct {
	mediaType      string
	since          int
	before, behind string
}{
	{types.MediaTypeJSON, 0, "", "\n"},
	{types.MediaTypeJSONLines, 53, "", "\n"},
	{types.MediaTypeNDJSON, 52, "", "\n"},
	{types.MediaTypeJSONSequence, 52, "\x1e", "\n"},
}

// accepts tells how much a client wants a media type, from 0 (not at all) to 1.
func accepts(header, mediaType string) float64 {
	for part := range strings.SplitSeq(header, ",") {
		mt, params, _ := strings.Cut(part, ";")
		if !strings.EqualFold(strings.TrimSpace(mt), mediaType) {
			continue
		}
		if q, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
			if f, err := strconv.ParseFloat(q, 64); err == nil {
				return f
			}
		}
		return 1
	}
	return 0
}

func (c *call) events() error {
	since, until, err := c.timeRange()
	if err != nil {
		return err
	}
	f, err := c.filters(eventFilters)
	if err != nil {
		return err
	}
	ch, err := c.eng.Events(c.ctx(), since, until, f)
	if err != nil {
		return err
	}
	framing, best := eventMedia[0], 0.0
	for _, m := range eventMedia {
		if q := accepts(c.r.Header.Get("Accept"), m.mediaType); q > best && c.version >= m.since {
			framing, best = m, q
		}
	}
	c.w.Header().Set("Content-Type", framing.mediaType)
	c.w.WriteHeader(http.StatusOK)
	out := newFlusher(c.w)
	defer out.Close()
	if err := out.Flush(); err != nil {
		return nil
	}
	for m := range ch {
		body, err := json.Marshal(c.eventShape(m))
		if err != nil {
			return nil
		}
		if _, err := out.Write(append(append([]byte(framing.before), body...), framing.behind...)); err != nil {
			return nil
		}
	}
	return nil
}

// eventShape adds what clients before 1.52 read.
func (c *call) eventShape(m events.Message) any {
	if c.version >= 52 {
		return m
	}
	old := struct {
		Status string `json:"status,omitempty"`
		ID     string `json:"id,omitempty"`
		From   string `json:"from,omitempty"`
		events.Message
	}{Message: m}
	switch m.Type {
	case events.ContainerEventType:
		old.Status, old.ID, old.From = string(m.Action), m.Actor.ID, m.Actor.Attributes["image"]
	case events.ImageEventType:
		old.Status, old.ID = string(m.Action), m.Actor.ID
	}
	return old
}

// diskUsage answers system df: lists with sizes for older clients, sums per kind
// of object for newer ones, which get the lists only if they ask.
func (c *call) diskUsage() error {
	want := map[string]bool{"container": true, "image": true, "volume": true, "build-cache": true}
	if asked := c.query["type"]; len(asked) > 0 {
		known := slices.Sorted(maps.Keys(want))
		clear(want)
		for _, t := range asked {
			if !slices.Contains(known, t) {
				return invalid("unknown object type: %s", t)
			}
			want[t] = true
		}
	}
	du, err := c.eng.DiskUsage(c.ctx())
	if err != nil {
		return err
	}
	if !want["container"] {
		du.Containers = nil
	}
	if !want["volume"] {
		du.Volumes = nil
	}
	var summaries []imageSummary
	if want["image"] {
		summaries = c.imageSummaries(du.Images, imageView{users: c.eng.ImageUsers(c.ctx()), shared: true})
	}
	verbose := c.flag("verbose")
	out := diskUsage{}
	if c.version >= 52 {
		out.fillNew(want, verbose, du, summaries)
	}
	if c.version <= 51 || c.version == 52 && !verbose {
		out.fillOld(want, du, summaries)
	}
	return c.json(http.StatusOK, out)
}

func isActive(s container.ContainerState) bool {
	return s == container.StateRunning || s == container.StatePaused || s == container.StateRestarting
}

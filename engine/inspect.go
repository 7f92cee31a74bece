package engine

import (
	"context"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"
	apinetwork "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/network"
)

// Inspect tells all about a container. size also measures its files.
func (e *Engine) Inspect(ctx context.Context, ref string, size bool) (apicontainer.InspectResponse, error) {
	c, err := e.find(ctx, ref)
	if err != nil {
		return apicontainer.InspectResponse{}, err
	}
	rec, st := c.view()
	path, args := command(rec.Config)
	r := apicontainer.InspectResponse{
		ID: rec.ID, Name: "/" + rec.Name, Created: stamp(rec.Created), Path: path, Args: args,
		State: state(&st), Image: rec.Image, ImageManifestDescriptor: rec.Manifest,
		ResolvConfPath: filepath.Join(e.dir(c.id), "resolv.conf"),
		HostnamePath:   filepath.Join(e.dir(c.id), "hostname"),
		HostsPath:      filepath.Join(e.dir(c.id), "hosts"),
		LogPath:        rec.LogPath, RestartCount: st.Restarts, Driver: storageDriver, Platform: rec.OS,
		ExecIDs: e.execIDs(c.id), HostConfig: hostConfig(rec), Config: rec.Config,
		Mounts: points(rec), NetworkSettings: networkSettings(rec, &st),
	}
	r.State.Health = c.health()
	r.GraphDriver = e.graphDriver(ctx, rec.ID)
	if size {
		rw, root, err := e.sizes(ctx, rec)
		if err != nil {
			return r, err
		}
		r.SizeRw, r.SizeRootFs = &rw, &root
	}
	return r, nil
}

// Annotations that inspect adds to a HostConfig: where the container runs, why,
// and whose it is.
const (
	annotationBackend  = ownPrefix + "backend"
	annotationLevel    = ownPrefix + "level"
	annotationRule     = ownPrefix + "policy.rule"
	annotationReason   = ownPrefix + "policy.reason"
	annotationOwner    = ownPrefix + "owner"
	annotationTenant   = ownPrefix + "tenant"
	annotationEmulated = ownPrefix + "emulated"
)

// hostConfig is the stored one with those added.
func hostConfig(rec *container.Record) *apicontainer.HostConfig {
	h := *rec.Host
	h.Annotations = maps.Clone(h.Annotations)
	if h.Annotations == nil {
		h.Annotations = map[string]string{}
	}
	d := rec.Decision
	h.Annotations[annotationBackend], h.Annotations[annotationLevel] = d.Backend, d.Level
	h.Annotations[annotationReason], h.Annotations[annotationOwner] = d.Reason, rec.Owner
	if d.Rule != "" {
		h.Annotations[annotationRule] = d.Rule
	}
	if rec.Tenant != "" {
		h.Annotations[annotationTenant] = rec.Tenant
	}
	if d.Emulated {
		h.Annotations[annotationEmulated] = "true"
	}
	return &h
}

// storageDriver is the name of how a root filesystem is put together.
const storageDriver = "overlayfs"

// command is a config's program and its arguments.
func command(c *apicontainer.Config) (path string, args []string) {
	args = append(append([]string{}, c.Entrypoint...), c.Cmd...)
	if len(args) == 0 {
		return "", args
	}
	return args[0], args[1:]
}

// stamp is a time as the API writes it; the zero time is Docker's for "never".
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func state(st *container.Status) *apicontainer.State {
	alive := st.State.Alive()
	s := &apicontainer.State{
		Status:     st.State.API(),
		Running:    alive || st.State == container.Restarting,
		Paused:     st.State == container.Paused,
		Restarting: st.State == container.Restarting,
		Dead:       st.State == container.Dead,
		OOMKilled:  st.OOMKilled,
		ExitCode:   st.ExitCode,
		Error:      st.Error,
		StartedAt:  stamp(st.StartedAt),
		FinishedAt: stamp(st.FinishedAt),
	}
	if alive {
		s.Pid = int(st.Pid)
	}
	return s
}

func points(rec *container.Record) []apicontainer.MountPoint {
	out := []apicontainer.MountPoint{}
	for _, m := range rec.Mounts {
		out = append(out, m.Point())
	}
	return out
}

// graphDriver names the directories of the root; nil where they are not known.
func (e *Engine) graphDriver(ctx context.Context, id string) *storage.DriverData {
	mounts, err := e.cfg.Images.Mounts(ctx, id)
	if err != nil || len(mounts) != 1 {
		return nil
	}
	return &storage.DriverData{Name: storageDriver, Data: overlayDirs(mounts[0].Options)}
}

// sizes are the bytes of the writable layer and of the whole root.
func (e *Engine) sizes(ctx context.Context, rec *container.Record) (rw, root int64, err error) {
	if rw, err = e.written(ctx, rec); err != nil {
		return 0, 0, err
	}
	root = rw
	if img, err := e.cfg.Images.Get(ctx, rec.Image, nil); err == nil {
		root += img.LayerSize
	}
	return rw, root, nil
}

// written is how much a container has written: into directories, or what its
// backend says where it keeps that itself.
func (e *Engine) written(ctx context.Context, rec *container.Record) (int64, error) {
	size, err := e.cfg.Images.RootUsage(ctx, rec.ID)
	if err != nil {
		return 0, err
	}
	if m, err := capable[backend.Measurer](e, ctx, rec.Decision.Backend, backend.CapUsage); err == nil {
		r, err := m.Usage(ctx, e.filesTarget(rec, nil))
		if err != nil {
			return 0, err
		}
		size += r.GetBytes()
	}
	return size, nil
}

// networkSettings are those in force, or what was asked for while nothing is.
func networkSettings(rec *container.Record, st *container.Status) *apicontainer.NetworkSettings {
	s := &apicontainer.NetworkSettings{Ports: apinetwork.PortMap{}, Networks: map[string]*apinetwork.EndpointSettings{}}
	a := st.Network
	if mode := rec.Host.NetworkMode; !mode.IsContainer() && (a == nil || len(a.Endpoints) == 0) {
		s.Networks[networkName(mode)] = asked(rec, networkName(mode))
		if len(rec.Endpoints) > 0 {
			clear(s.Networks)
		}
		for name := range rec.Endpoints {
			s.Networks[name] = asked(rec, name)
		}
	}
	if a == nil {
		return s
	}
	s.SandboxID = a.SandboxID
	if a.Ports != nil {
		s.Ports = a.Ports
	}
	for _, ep := range a.Endpoints {
		s.Networks[ep.Network] = endpoint(ep, asked(rec, ep.Network))
	}
	return s
}

// asked is what the client asked of a network, never nil.
func asked(rec *container.Record, name string) *apinetwork.EndpointSettings {
	if ep := rec.Endpoints[name].Copy(); ep != nil {
		return ep
	}
	return &apinetwork.EndpointSettings{}
}

func networkName(m apicontainer.NetworkMode) string {
	if m == "" || m.IsDefault() {
		return "bridge"
	}
	return string(m)
}

func endpoint(ep network.Endpoint, s *apinetwork.EndpointSettings) *apinetwork.EndpointSettings {
	s.NetworkID, s.EndpointID = ep.NetworkID, ep.EndpointID
	s.Gateway, s.IPv6Gateway = ep.Gateway4, ep.Gateway6
	s.Aliases, s.DNSNames = ep.Aliases, ep.DNSNames
	if mac, err := net.ParseMAC(ep.MAC); err == nil {
		s.MacAddress = apinetwork.HardwareAddr(mac)
	}
	if ep.IPv4.IsValid() {
		s.IPAddress, s.IPPrefixLen = ep.IPv4.Addr(), ep.IPv4.Bits()
	}
	if ep.IPv6.IsValid() {
		s.GlobalIPv6Address, s.GlobalIPv6PrefixLen = ep.IPv6.Addr(), ep.IPv6.Bits()
	}
	return s
}

// overlayDirs are an overlay's directories under Docker's names for them.
func overlayDirs(options []string) map[string]string {
	data := map[string]string{}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		if name, ok := overlayNames[key]; ok {
			data[name] = value
		}
	}
	return data
}

var overlayNames = map[string]string{"lowerdir": "LowerDir", "upperdir": "UpperDir", "workdir": "WorkDir"}

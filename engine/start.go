package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	apinetwork "github.com/moby/moby/api/types/network"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/engine/spec"
)

// exitNotStarted is the exit code of a container that could not be started for
// a reason other than its program.
const exitNotStarted = 128

// Start runs a container's program.
func (e *Engine) Start(ctx context.Context, ref string) (alreadyRunning bool, err error) {
	if err := e.await(ctx); err != nil {
		return false, err
	}
	c, err := e.enter(ctx, ref)
	if err != nil {
		return false, err
	}
	c.op.Lock()
	defer c.op.Unlock()
	switch _, st := c.view(); st.State {
	case container.Running:
		return true, nil
	case container.Paused:
		return false, fmt.Errorf("cannot start a paused container, try unpause instead: %w", errdefs.ErrConflict)
	case container.Removing, container.Dead:
		return false, fmt.Errorf("container is marked for removal and cannot be started: %w", errdefs.ErrConflict)
	}
	return false, e.start(ctx, c, func(st *container.Status) {
		st.Stopped, st.Restarts = false, 0
		c.delay = 0
	})
}

// start takes a container from created, exited or restarting to running. The
// caller holds c.op. begin changes the status in the same moment as the intent
// is written.
func (e *Engine) start(ctx context.Context, c *ctr, begin func(*container.Status)) error {
	ctx, cancel := acting(ctx)
	defer cancel()
	// An earlier run may not have been cleared away yet.
	e.release(ctx, c)
	if _, st := c.view(); st.Held {
		return fmt.Errorf("container %s cannot be started: what its last run held could not be released; the engine's log says why: %w", c.id, errdefs.ErrUnavailable)
	}
	rec, _ := c.view()
	if _, err := e.Room(rec.Tenant); err != nil {
		return err
	}
	if err := e.change(c, func(st *container.Status) error {
		if err := st.Move(container.Start); err != nil {
			return err
		}
		if begin != nil {
			begin(st)
		}
		if c.timer != nil {
			c.timer.Stop()
			c.timer = nil
		}
		st.Held, st.TriedAt, st.StopBy, st.Again, st.Error, st.OOMKilled = true, e.now(), 0, false, "", false
		c.early = nil
		return nil
	}); err != nil {
		return err
	}
	e.cfg.Crash("start.intent")

	status, err := e.launch(ctx, c, rec)
	if err != nil {
		return e.failed(ctx, c, err)
	}
	e.began(c, status.GetPid(), e.now())
	e.cfg.Crash("start.done")
	return nil
}

// began records that the program runs, and then the exit if that came first.
func (e *Engine) began(c *ctr, pid int64, at time.Time) {
	c.mu.Lock()
	if c.st.Move(container.Begin) != nil {
		c.mu.Unlock()
		return
	}
	c.st.Pid, c.st.StartedAt, c.st.ExitCode = pid, at, 0
	e.watch(c)
	e.noted(c, e.save(c, false))
	early := c.early
	c.early = nil
	e.emit(c.rec, events.ActionStart) // before anybody can tell of the end
	c.mu.Unlock()
	if early != nil {
		e.exited(c, early)
	}
}

// failed undoes a start and says why it failed.
func (e *Engine) failed(ctx context.Context, c *ctr, cause error) error {
	code := exitNotStarted
	if ee, ok := errors.AsType[*backend.ExecError](cause); ok {
		code = ee.ExitCode()
		cause = fmt.Errorf("failed to create task for container: %s: %w", ee.Message, errdefs.ErrInvalidArgument)
	}
	msg := reason(cause)
	e.note(c, func(st *container.Status) {
		move := container.Abort
		if st.HasRun() {
			move = container.Exit
		}
		_ = st.Move(move)
		st.Error, st.ExitCode, st.Pid = msg, code, 0
		c.early = nil
		c.ended()
	})
	c.abandon(cause)
	e.giveBack(ctx, c, false)
	c.tell(false) // also where nothing could be released
	if rec, _ := c.view(); rec.Host.AutoRemove {
		if err := e.remove(ctx, c, true); err != nil {
			e.log.Error("cannot remove a container that did not start", "container", c.id, "error", err)
		}
	}
	return cause
}

// launch makes network, sandbox and process. What it made when it fails is in
// the status, for release to take back.
func (e *Engine) launch(ctx context.Context, c *ctr, rec *container.Record) (*backendpb.Status, error) {
	defaults, _ := e.settings()
	in := e.specInput(rec, defaults)
	netns, err := e.join(rec, in)
	if err != nil {
		return nil, err
	}
	var ns *network.Netns
	if !rec.Host.NetworkMode.IsContainer() {
		req := e.networkRequest(rec)
		links, err := e.links(rec)
		if err != nil {
			return nil, err
		}
		req.ExtraHosts = append(slices.Clone(req.ExtraHosts), links.hosts...)
		if len(links.env) > 0 {
			config := *in.Config
			config.Env = append(slices.Clone(config.Env), links.env...)
			in.Config = &config
		}
		var att *network.Attachment
		if att, ns, err = e.cfg.Network.Attach(ctx, req); err != nil {
			return nil, err
		}
		defer func() { _ = ns.Close() }()
		e.cfg.Crash("start.network")
		e.note(c, func(st *container.Status) { st.Network = att })
		e.emitEndpoints(rec, events.ActionConnect, att.Endpoints)
		if ns != nil {
			netns = ns.Path
		}
		if err := e.cfg.Network.WriteFiles(e.dir(c.id), req, att); err != nil {
			return nil, err
		}
		in.Files = e.files(c.id)
	}
	if in.Mounts, err = e.mountAll(ctx, rec); err != nil {
		return nil, err
	}
	blob, err := spec.Marshal(in)
	if err != nil {
		return nil, err
	}
	rootfs, err := e.cfg.Images.Mounts(ctx, c.id)
	if err != nil {
		return nil, err
	}
	return e.run(ctx, c, &launchOrder{
		sandbox: &backendpb.Sandbox{
			Id: c.id, Level: rec.Decision.Level, Hostname: in.Hostname, Netns: netns, CgroupParent: rec.Host.CgroupParent,
			Annotations: sandboxAnnotations(rec),
		},
		container: &backendpb.Container{
			Id: c.id, Sandbox: c.id, Spec: blob, Rootfs: pbMounts(rootfs),
			Io: ioOf(rec), Log: logOf(rec), StateDir: e.dir(c.id), Init: rec.Host.Init != nil && *rec.Host.Init,
		},
		held: ns,
	})
}

// Annotations of a sandbox, beside annotationTenant, which says whose it is.
const (
	// annotationSysctl begins a parameter of its network beside what its namespace
	// has, for backends whose containers have another kernel.
	annotationSysctl = ownPrefix + "sysctl."
	// annotationBrief is "true" if the container goes with its program's end: what
	// it wrote into its own filesystem need not be saved.
	annotationBrief = ownPrefix + "brief"
)

func sandboxAnnotations(rec *container.Record) map[string]string {
	a := map[string]string{annotationTenant: rec.Tenant}
	if rec.Host.AutoRemove {
		a[annotationBrief] = "true"
	}
	for k, v := range spec.NetSysctls(rec.Host.Sysctls) {
		a[annotationSysctl+k] = v
	}
	return a
}

// launchOrder is what a backend needs to run a container.
type launchOrder struct {
	sandbox   *backendpb.Sandbox
	container *backendpb.Container
	held      *network.Netns // freed once the sandbox has it
}

// run goes through Open, Create, Attach and Start. If the backend dies on the
// way it is done again from the beginning, unless the program runs by then.
func (e *Engine) run(ctx context.Context, c *ctr, o *launchOrder) (status *backendpb.Status, err error) {
	rec, _ := c.view()
	again := false
	err = e.call(ctx, rec.Decision.Backend, func(proc BackendProcess) error {
		if again {
			s, err := proc.State(ctx, c.id)
			if err == nil && s.GetInit().GetPhase() != backendpb.ProcessState_CREATED {
				status = &backendpb.Status{Pid: s.GetInit().GetPid()}
				return nil
			}
			c.setLive(false)
			if err := proc.Close(ctx, c.id); err != nil {
				return err
			}
		}
		again = true
		status, err = e.runOnce(ctx, proc, c, o)
		return err
	})
	return status, err
}

func (e *Engine) runOnce(ctx context.Context, proc BackendProcess, c *ctr, o *launchOrder) (*backendpb.Status, error) {
	if err := proc.Open(ctx, o.sandbox); err != nil {
		return nil, err
	}
	e.cfg.Crash("start.open")
	if _, err := proc.Create(ctx, o.container); err != nil {
		return nil, err
	}
	e.cfg.Crash("start.created")
	if err := e.connect(ctx, proc, c); err != nil {
		return nil, err
	}
	status, err := proc.Start(ctx, &backendpb.ProcessRef{Container: c.id})
	if err != nil {
		return nil, err
	}
	e.cfg.Crash("start.started")
	return status, nil
}

// specInput is what a container's spec is made of, but for what only a start
// knows.
func (e *Engine) specInput(rec *container.Record, d Defaults) *spec.Input {
	in := &spec.Input{
		ID: rec.ID, OS: rec.OS, Config: rec.Config, Host: rec.Host, Mounts: rec.Mounts, Devices: e.cfg.Devices,
		Hostname: rec.Config.Hostname, Domainname: rec.Config.Domainname,
		CgroupParent: rec.Host.CgroupParent, ShmSize: rec.Host.ShmSize,
		NoNewPrivileges: d.NoNewPrivileges, SeccompProfile: d.SeccompProfile, Ulimits: d.Ulimits,
	}
	if in.Hostname == "" {
		in.Hostname = e.cfg.Host.Hostname
	}
	in.UserNS, _ = spec.UserNS(rec.Host) // checked at creation
	return in
}

// join fills in what a container takes from others by its container:<id> modes,
// and returns the path of the network namespace if that is one of them.
func (e *Engine) join(rec *container.Record, in *spec.Input) (netns string, err error) {
	h := rec.Host
	in.Join = map[specs.LinuxNamespaceType]string{}
	if h.PidMode.IsContainer() {
		donor, err := e.donor(rec, h.PidMode.Container(), "PID")
		if err != nil {
			return "", err
		}
		in.Join[specs.PIDNamespace] = donor.ns("pid")
	}
	if h.IpcMode.IsContainer() {
		donor, err := e.donor(rec, h.IpcMode.Container(), "IPC")
		if err != nil {
			return "", err
		}
		if m := donor.rec.Host.IpcMode; !m.IsShareable() {
			return "", invalid("can't join IPC of container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", donor.rec.ID)
		}
		in.Join[specs.IPCNamespace] = donor.ns("ipc")
		in.DonorShm = fmt.Sprintf("/proc/%d/root/dev/shm", donor.pid)
	}
	if h.NetworkMode.IsContainer() {
		donor, err := e.donor(rec, h.NetworkMode.ConnectedContainer(), "network")
		if err != nil {
			return "", err
		}
		netns = donor.ns("net")
		in.Hostname, in.Domainname = donor.rec.Config.Hostname, donor.rec.Config.Domainname
		in.Files = e.files(donor.rec.ID)
	}
	return netns, nil
}

// donor is a running container whose namespaces another one joins.
type donor struct {
	rec *container.Record
	pid int64
}

func (d donor) ns(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", d.pid, kind) }

func (e *Engine) donor(rec *container.Record, id, what string) (donor, error) {
	c, ok := e.ctrs.Get(id) // found among what its creator sees, then
	if !ok {
		return donor{}, fmt.Errorf("No such container: %s: %w", id, errdefs.ErrNotFound) //nolint:staticcheck // Docker's words
	}
	drec, st := c.view()
	switch {
	case !st.State.Alive():
		return donor{}, fmt.Errorf("cannot join %s of a non running container: %s: %w", what, c.id, errdefs.ErrConflict)
	case drec.Decision.Backend != rec.Decision.Backend || drec.Decision.Level != rec.Decision.Level || st.Pid == 0:
		return donor{}, fmt.Errorf("cannot join %s of container %s: it runs at level %s of backend %s: %w", what, c.id, drec.Decision.Level, drec.Decision.Backend, errdefs.ErrFailedPrecondition)
	}
	return donor{drec, st.Pid}, nil
}

// files are the names under which Network.WriteFiles writes.
func (e *Engine) files(id string) spec.Files {
	f := spec.Files{
		Hostname: filepath.Join(e.dir(id), "hostname"),
		Hosts:    filepath.Join(e.dir(id), "hosts"),
		Resolv:   filepath.Join(e.dir(id), "resolv.conf"),
	}
	for _, p := range []*string{&f.Hostname, &f.Hosts, &f.Resolv} {
		if _, err := os.Stat(*p); err != nil {
			*p = ""
		}
	}
	return f
}

func (e *Engine) networkRequest(rec *container.Record) network.Request {
	h, c := rec.Host, rec.Config
	r := network.Request{
		Container: rec.ID, Tenant: rec.Tenant, Mode: string(h.NetworkMode), Name: rec.Name,
		Hostname: c.Hostname, Domainname: c.Domainname,
		Ports: h.PortBindings, PublishAll: h.PublishAllPorts,
		DNS: h.DNS, DNSSearch: h.DNSSearch, DNSOptions: h.DNSOptions, ExtraHosts: h.ExtraHosts,
		Sysctls: spec.NetSysctls(h.Sysctls), Endpoints: rec.Endpoints,
		OwnStack: e.ownStack(rec),
	}
	for p := range c.ExposedPorts {
		r.Exposed = append(r.Exposed, p)
	}
	if h.NetworkMode.IsHost() {
		r.Ports, r.PublishAll = apinetwork.PortMap(nil), false
	}
	return r
}

func ioOf(rec *container.Record) *backendpb.IO {
	c := rec.Config
	return &backendpb.IO{
		Terminal: c.Tty, Stdin: c.OpenStdin, StdinOnce: c.StdinOnce,
		Rows: uint32(rec.Host.ConsoleSize[0]), Cols: uint32(rec.Host.ConsoleSize[1]),
	}
}

func logOf(rec *container.Record) *backendpb.Log {
	return &backendpb.Log{
		Driver: rec.Host.LogConfig.Type, Path: rec.LogPath,
		Options: rec.Host.LogConfig.Config, Attrs: logAttrs(rec.Host.LogConfig, rec.Config),
	}
}

// reapplyLimits tells the backend a container's limits again.
func (e *Engine) reapplyLimits(ctx context.Context, rec *container.Record) error {
	blob, err := resourcesJSON(&rec.Host.Resources, e.cfg.Devices)
	if err != nil {
		return err
	}
	return e.call(ctx, rec.Decision.Backend, func(p BackendProcess) error {
		return p.Update(ctx, &backendpb.UpdateRequest{Container: rec.ID, Resources: blob})
	})
}

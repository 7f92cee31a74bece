package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"time"

	clog "github.com/containerd/log"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/audit"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/engine/policy"
	"github.com/caisson-engine/caisson/images"
	"github.com/caisson-engine/caisson/images/tenants"
)

// parts is what the daemon is made of.
type parts struct {
	log    *slog.Logger
	engine *engine.Engine
	images *tenants.Service
	audit  *audit.Log // nil: none
	net    *network.Manager
	host   engine.Host
	// adopt asks to be started again if this process dies; retire takes that
	// back before it ends on purpose.
	adopt  func()
	retire func()

	runtimes []policy.Runtime // as declared when the engine was built

	closers []func() error // in order of construction
}

// close ends everything in reverse order of construction.
func (p *parts) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	p.closers = nil
	return errors.Join(errs...)
}

// wire builds every concrete thing by its constructor.
func wire(ctx context.Context, c *config, log *slog.Logger, level slog.Level) (_ *parts, err error) {
	// The libraries' own log, in another format, adds nothing that errors do not say.
	if err := clog.SetLevel("error"); err != nil {
		return nil, err
	}
	p := &parts{log: log}
	defer func() {
		if err != nil {
			_ = p.close() // there is a better error already
		}
	}()
	pol, err := loadPolicy(c)
	if err != nil {
		return nil, err
	}
	def, err := containerDefaults(c)
	if err != nil {
		return nil, err
	}
	if p.audit, err = openAudit(c); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.audit.Close)
	p.images, err = tenants.New(ctx, tenants.Config{
		Host: images.Config{
			Root:                   c.DataRoot,
			InsecureRegistries:     c.InsecureRegistries,
			MaxConcurrentDownloads: c.MaxDownloads,
			Owner:                  func(ctx context.Context) string { return identity.From(ctx).Tenant },
			Log:                    log,
		},
		Root: filepath.Join(c.DataRoot, "tenants"), Dir: identity.Dir, Scope: identity.ScopeOf,
		Of: func(ctx context.Context) string { return identity.From(ctx).Scope() },
		// Nobody asks before there is an engine.
		Shares:   func(name string) bool { return p.engine.SharesImage(name) },
		Registry: func(ctx context.Context, host string) error { return p.engine.MayUseRegistry(ctx, host) },
		Room:     func(scope string) (int64, error) { return p.engine.Room(scope) },
		Log:      log,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the image store: %w", err)
	}
	p.closers = append(p.closers, p.images.Close)
	if err := offerHello(ctx, p.images); err != nil {
		return nil, err
	}
	sys, err := newPlatform(c, log)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, sys.close)
	launcher := newLauncher(c, declared(pol), log, level)
	p.runtimes = launcher.runtimes
	p.net = sys.network
	p.host, p.adopt, p.retire = sys.host, func() { sys.adopt(launcher) }, sys.retire
	p.engine, err = engine.New(engine.Config{
		DataRoot: c.DataRoot,
		ExecRoot: c.ExecRoot,
		HostID:   c.HostID,
		BootID:   sys.bootID,
		Launcher: launcher,
		Images:   p.images,
		Network:  sys.network,
		Disks:    sys.disks,
		Mounts:   sys.mounts,
		Policy:   pol,
		Defaults: def,
		Host:     sys.host,
		Devices:  sys.devices,
		Log:      log,
	})
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.engine.Close)
	return p, nil
}

// reload gives the engine what a running one can take.
func (p *parts) reload(c *config) error {
	pol, err := loadPolicy(c)
	if err != nil {
		return err
	}
	def, err := containerDefaults(c)
	if err != nil {
		return err
	}
	if pol == nil {
		pol = &policy.Policy{} // the file was removed: no policy
	}
	p.engine.Reload(def, pol)
	if !reflect.DeepEqual(declared(pol), p.runtimes) {
		p.log.Warn("the policy declares other runtimes than before: they change with a restart of the daemon")
	}
	e := audit.Entry{Time: time.Now().UTC(), Action: "reload the policy", Outcome: audit.Allowed}
	e.By(identity.Engine)
	return p.audit.Append(e)
}

// declared are the runtimes of a policy, which may be nil.
func declared(pol *policy.Policy) []policy.Runtime {
	if pol == nil {
		return nil
	}
	return pol.RuntimeList()
}

// loadPolicy reads the policy file; nil if there is none and none was named.
func loadPolicy(c *config) (*policy.Policy, error) {
	path := c.Policy
	if path == "" {
		path = defaultPolicyFile
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && c.Policy == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p, err := policy.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", path, err)
	}
	return p, nil
}

// openAudit opens the audit log; nil if the host's owner wants none.
func openAudit(c *config) (*audit.Log, error) {
	switch c.AuditLog {
	case "none":
		return nil, nil
	case "":
		return audit.Open(filepath.Join(c.DataRoot, "audit.log"), c.AuditSize, 0)
	}
	return audit.Open(c.AuditLog, c.AuditSize, 0)
}

// seccompProfile is the engine's word for the profile: "" for its own,
// "unconfined", or the JSON of the file named.
func seccompProfile(c *config) (string, error) {
	switch c.Seccomp {
	case "", "builtin":
		return "", nil
	case "unconfined":
		return c.Seccomp, nil
	}
	b, err := os.ReadFile(c.Seccomp)
	if err != nil {
		return "", fmt.Errorf("seccomp profile: %w", err)
	}
	return string(b), nil
}

func containerDefaults(c *config) (engine.Defaults, error) {
	sec, err := seccompProfile(c)
	return engine.Defaults{
		LogDriver:       c.LogDriver,
		LogOpts:         c.LogOpts,
		Ulimits:         c.Ulimits,
		ShmSize:         c.ShmSize,
		StopTimeout:     c.StopTimeout,
		Init:            c.Init,
		CgroupParent:    c.CgroupParent,
		CgroupnsMode:    c.CgroupnsMode,
		IpcMode:         c.IpcMode,
		NoNewPrivileges: c.NoNewPrivileges,
		SeccompProfile:  sec,
		Labels:          c.Labels,
	}, err
}

// backendDirs are where backends are looked for, first one first.
func (c *config) backendDirs() []string {
	if len(c.BackendDirs) > 0 {
		return c.BackendDirs
	}
	if self, err := os.Executable(); err == nil {
		return append([]string{filepath.Dir(self)}, systemBackendDirs...)
	}
	return systemBackendDirs
}

package plugin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	hclog "github.com/hashicorp/go-hclog"
	hplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"

	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/backendrpc"
)

// Options say which backend to launch, and where it lives.
type Options struct {
	Name     string       // must be what Info says
	Path     string       // of the binary
	StateDir string       // made with mode 0700 if missing; passed as backend.EnvStateDir
	Env      []string     // KEY=value; the backend gets these, PATH and nothing else of ours
	LogLevel slog.Level   // of the backend's own log, StateDir/backend.log
	Log      *slog.Logger // the engine's, nil for none
	TLS      bool         // demand certificates although the socket is private
}

// startTimeout bounds the start of a plugin, reattachTimeout the first answer
// of one that runs already, where the caller's context does not; killTimeout is
// how long one may take to end by itself, evictTimeout after SIGKILL.
const (
	startTimeout    = 20 * time.Second
	reattachTimeout = 5 * time.Second
	evictTimeout    = 5 * time.Second
	killTimeout     = 2 * time.Second
)

// Client is a running backend. It is safe for concurrent use. Calls fail with
// kind Unavailable once the plugin died; Launch again then.
type Client struct {
	*backendrpc.Remote
	id         identity
	stateDir   string
	reattached bool

	plugin *hplugin.Client
	runner *attached
	link   *link

	disconnect sync.Once
}

// Launch takes over the running backend of the state directory, or starts one.
// Calls for one state directory must not overlap. Errors: NotFound (no such
// binary), Unavailable (it did not start, with what it said), FailedPrecondition
// (it is not what Options name).
func Launch(ctx context.Context, o Options) (*Client, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.TLS = o.TLS || needsTLS
	bin, err := statBinary(o.Path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory of backend %s: %w", o.Name, err)
	}
	old, err := readRecord(o.StateDir)
	if err == nil && old.Binary == bin && old.TLS == o.TLS && old.Env == o.envDigest() {
		c, err := reattach(ctx, o, old)
		if err == nil {
			return c, nil
		}
		o.Log.Info("backend cannot be taken over, starting another", "backend", o.Name, "pid", old.PID, "reason", err)
	}
	if err := evict(ctx, o, old); err != nil {
		return nil, err
	}
	return start(ctx, o, bin)
}

// reattach connects to a plugin that an earlier engine started.
func reattach(ctx context.Context, o Options, r record) (*Client, error) {
	addr, err := r.addr()
	if err != nil {
		return nil, err
	}
	set, ok := sets(nil)[r.Version]
	if !ok {
		return nil, fmt.Errorf("it speaks protocol %d: %w", r.Version, errdefs.ErrFailedPrecondition)
	}
	proc, err := r.find()
	if err != nil {
		return nil, err
	}
	run := &attached{id: r.identity, proc: proc, done: make(chan struct{})}
	go run.watch()
	c, err := takeOver(ctx, o, r, addr, set, run)
	if err != nil {
		run.release()
	}
	return c, err
}

func takeOver(ctx context.Context, o Options, r record, addr net.Addr, set hplugin.PluginSet, run *attached) (*Client, error) {
	cfg, err := clientConfig(o)
	if err != nil {
		return nil, err
	}
	cfg.Plugins = set
	cfg.Reattach = &hplugin.ReattachConfig{
		Protocol:        hplugin.ProtocolGRPC,
		ProtocolVersion: r.Version,
		Addr:            addr,
		Pid:             r.PID,
		ReattachFunc:    func() (runner.AttachedRunner, error) { return run, nil },
	}
	ctx, cancel := context.WithTimeout(ctx, reattachTimeout)
	defer cancel()
	return connect(ctx, o, hplugin.NewClient(cfg), run, true)
}

// start runs the binary and connects to it.
func start(ctx context.Context, o Options, bin binary) (*Client, error) {
	if o.TLS {
		if err := ensureKey(o.StateDir); err != nil {
			return nil, fmt.Errorf("certificate of backend %s: %w", o.Name, err)
		}
	}
	cfg, err := clientConfig(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	rec := record{Binary: bin, TLS: o.TLS, Env: o.envDigest()}
	run := &launched{path: o.Path, stateDir: o.StateDir}
	cfg.StartTimeout = time.Until(deadline)
	cfg.VersionedPlugins = sets(nil)
	cfg.SkipHostEnv = true
	cfg.UnixSocketConfig = &hplugin.UnixSocketConfig{TempDir: socketRoot(o.StateDir)}
	cfg.RunnerFunc = func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
		rec.SocketDir = dir
		run.env = append(environment(o), cmd.Env...)
		return run, nil
	}
	p := hplugin.NewClient(cfg)
	addr, err := p.Start()
	if err != nil {
		os.RemoveAll(rec.SocketDir)
		said := strings.TrimSpace(logTail(o.StateDir, run.logOffset))
		if said == "" {
			said = firstLine(err.Error())
		}
		return nil, fmt.Errorf("backend %s did not start: %s: %w", o.Name, said, errdefs.ErrUnavailable)
	}
	rec.identity, rec.Network, rec.Addr, rec.Version = run.id, addr.Network(), addr.String(), p.NegotiatedVersion()
	if err := rec.write(o.StateDir); err != nil {
		p.Kill()
		return nil, fmt.Errorf("recording backend %s: %w", o.Name, err)
	}
	c, err := connect(ctx, o, p, &run.attached, false)
	if err != nil {
		p.Kill()
		os.Remove(filepath.Join(o.StateDir, recordName))
	}
	return c, err
}

// connect dials and asks the plugin who it is. On failure the connection is
// closed; the process is the caller's.
func connect(ctx context.Context, o Options, p *hplugin.Client, run *attached, reattached bool) (*Client, error) {
	protocol, err := p.Client()
	if err != nil {
		return nil, fmt.Errorf("connecting to backend %s: %w: %w", o.Name, err, errdefs.ErrUnavailable)
	}
	raw, err := protocol.Dispense(service)
	if err != nil {
		return nil, fmt.Errorf("connecting to backend %s: %w: %w", o.Name, err, errdefs.ErrUnavailable)
	}
	l, ok := raw.(*link)
	if !ok {
		return nil, fmt.Errorf("backend %s is a %T: %w", o.Name, raw, errdefs.ErrInternal)
	}
	c := &Client{
		Remote: backendrpc.New(l.conn), id: run.id, stateDir: o.StateDir, reattached: reattached,
		plugin: p, runner: run, link: l,
	}
	info, err := c.Info(ctx)
	if err == nil && info.GetName() != o.Name {
		err = fmt.Errorf("%s calls itself backend %q, not %q: %w", o.Path, info.GetName(), o.Name, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		c.link.close()
		return nil, fmt.Errorf("probing backend %s: %w", o.Name, err)
	}
	return c, nil
}

// Done is closed as soon as the plugin process has ended, for whatever reason;
// after Disconnect it may never be.
func (c *Client) Done() <-chan struct{} { return c.runner.done }

// PID is the plugin's process number.
func (c *Client) PID() int { return c.id.PID }

// Reattached tells whether the plugin was running before Launch.
func (c *Client) Reattached() bool { return c.reattached }

// Disconnect closes the connection and leaves the plugin running. Calls and
// streams under way fail.
func (c *Client) Disconnect() {
	c.disconnect.Do(func() {
		c.link.close()
		c.runner.release()
	})
}

// Kill ends the plugin process: it asks, waits two seconds, then kills. It
// returns when the process has ended. After Disconnect it does nothing.
func (c *Client) Kill() {
	asked := make(chan struct{})
	go func() {
		c.plugin.Kill()
		close(asked)
	}()
	// go-plugin's own bound does not count while the plugin thinks about the
	// request, and it believes one that answers; only the process's end counts.
	select {
	case <-asked:
	case <-time.After(killTimeout):
	}
	if err := c.runner.Kill(context.Background()); err == nil {
		<-c.runner.done
	}
	c.Disconnect()
	if r, err := readRecord(c.stateDir); err == nil && r.identity == c.id {
		os.RemoveAll(r.SocketDir)
		os.Remove(filepath.Join(c.stateDir, recordName))
	}
}

// evict ends whoever serves from the state directory, and removes its socket.
func evict(ctx context.Context, o Options, old record) error {
	ids := []identity{old.identity}
	if holder, err := readLock(o.StateDir); err == nil && holder != old.identity {
		ids = append(ids, holder)
	}
	ctx, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	for _, id := range ids {
		p, err := id.find()
		if err != nil {
			continue
		}
		run := &attached{id: id, proc: p, done: make(chan struct{})}
		go run.watch()
		if err = run.Kill(ctx); errors.Is(err, os.ErrProcessDone) {
			err = nil // it ended meanwhile
		}
		if err == nil {
			select {
			case <-run.done:
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		run.release()
		if err != nil {
			return fmt.Errorf("ending process %d, which is in the way of backend %s: %w: %w", id.PID, o.Name, err, errdefs.ErrUnavailable)
		}
	}
	if old.SocketDir != "" {
		os.RemoveAll(old.SocketDir)
	}
	return nil
}

func clientConfig(o Options) (*hplugin.ClientConfig, error) {
	cfg := &hplugin.ClientConfig{
		HandshakeConfig:  handshake,
		AllowedProtocols: []hplugin.Protocol{hplugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
		// The plugin's stderr is a file that we do not read.
		PluginLogBufferSize: 16,
		GRPCDialOptions:     backendrpc.DialOptions(),
	}
	if o.TLS {
		t, err := loadTLS(o.StateDir)
		if err != nil {
			return nil, err
		}
		cfg.TLSConfig = t
	}
	return cfg, nil
}

// envDigest tells environments apart that a backend was started with.
func (o *Options) envDigest() string {
	sum := sha256.Sum256([]byte(strings.Join(o.Env, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// environment is all that a backend sees of ours.
func environment(o Options) []string {
	env := []string{backend.EnvStateDir + "=" + o.StateDir}
	if level, err := o.LogLevel.MarshalText(); err == nil {
		env = append(env, envLogLevel+"="+string(level))
	}
	if o.TLS {
		env = append(env, envTLS+"=1")
	}
	for _, name := range inherited {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(env, o.Env...)
}

// inherited are the variables that programs need on some OS to work at all.
var inherited = []string{"PATH", "SystemRoot", "SystemDrive", "ProgramData", "TEMP", "TMP"}

// maxSocketPath is what the kernels take for a unix socket, less what go-plugin
// puts behind the directory.
const maxSocketPath = 104 - len("/plugin-dir1234567890/plugin1234567890")

// socketRoot is where the socket's private directory is made: the state
// directory, unless its path is too long for a socket.
func socketRoot(stateDir string) string {
	if len(stateDir) <= maxSocketPath {
		return stateDir
	}
	return os.TempDir()
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

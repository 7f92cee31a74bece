package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caisson-engine/caisson/engine/dockerapi"
)

// daemon is a running caissond.
//
// # Its life
//
//	load → newDaemon: roots, locks, sockets → run: wire → serve → ready → … signals … → stop
//
// Sockets are open before the engine is built, so that clients of a restarting
// daemon wait instead of failing. A daemon that stops leaves containers,
// backends and their keepers running; what it holds by descriptor (locks) the
// kernel gives back however it ends.
type daemon struct {
	cfg   *config
	args  []string // to read the configuration again
	log   *slog.Logger
	level *slog.LevelVar

	locks     []*os.File
	listeners []listener
	signals   chan os.Signal
}

// Directories are searchable, so that members of the socket's group reach it
// and containers in user namespaces reach their roots; they cannot be listed.
const rootMode = 0o711

func newDaemon(cfg *config, args []string, stderr io.Writer) (_ *daemon, err error) {
	d := &daemon{cfg: cfg, args: args, level: new(slog.LevelVar), signals: make(chan os.Signal, 8)}
	d.log = newLogger(cfg, d.level, stderr)
	// Writing the log to a pipe whose reader is gone must not end the daemon,
	// hence SIGPIPE; it is not ignored, because children would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	signal.Notify(d.signals, handled...)
	defer func() {
		if err != nil {
			d.release()
		}
	}()
	for _, r := range []struct{ dir, option string }{{cfg.DataRoot, "data-root"}, {cfg.ExecRoot, "exec-root"}} {
		if err := os.MkdirAll(r.dir, rootMode); err != nil {
			return nil, err
		}
		f, err := lock(r.dir, r.option)
		if err != nil {
			return nil, err
		}
		d.locks = append(d.locks, f)
	}
	if err := writePidfile(cfg.Pidfile); err != nil {
		return nil, err
	}
	if d.listeners, err = listen(context.Background(), cfg); err != nil {
		return nil, err
	}
	return d, nil
}

func newLogger(c *config, level *slog.LevelVar, w io.Writer) *slog.Logger {
	setLevel(level, c.LogLevel)
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func setLevel(v *slog.LevelVar, name string) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(name)); err == nil {
		v.Set(l)
	}
}

func writePidfile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// release gives back what newDaemon took. Idempotent.
func (d *daemon) release() {
	for _, l := range d.listeners {
		_ = l.Close() // Shutdown has closed it already
		l.release()
	}
	if b, err := os.ReadFile(d.cfg.Pidfile); err == nil && strings.TrimSpace(string(b)) == strconv.Itoa(os.Getpid()) {
		_ = os.Remove(d.cfg.Pidfile)
	}
	for _, l := range d.locks {
		l.Close()
	}
	d.listeners, d.locks = nil, nil
}

// run serves until a signal or a failure ends it.
func (d *daemon) run() error {
	defer d.release()
	began := time.Now()
	// Requests end with requests, the engine's own work with life.
	life, die := context.WithCancel(context.Background())
	defer die()
	requests, endRequests := context.WithCancel(life)
	defer endRequests()

	p, err := wire(life, d.cfg, d.log, d.level.Level())
	if err != nil {
		return err
	}
	failed := make(chan error, len(d.listeners)+1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := p.engine.Run(life); err != nil && life.Err() == nil {
			failed <- fmt.Errorf("the engine ended: %w", err)
		}
	}()

	api := dockerapi.New(dockerapi.Config{
		Engine: p.engine, Images: p.images, Networks: p.engine, Audit: p.audit, Log: d.log,
		Version: version, GitCommit: commit, Kernel: p.host.KernelVersion,
	})
	srv := api.HTTPServer(requests)
	for _, l := range d.listeners {
		if d.cfg.exposed(l) {
			d.log.Warn("everyone who can connect to this socket can take over the host", "socket", l.name)
		}
		go func() {
			if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving %s: %w", l.name, err)
			}
		}()
	}
	go d.announce(life, p, api, began)
	go giveBackMemory(life)

	err = d.wait(p, failed)

	notify("STOPPING=1")
	if err == nil {
		p.retire()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(d.cfg.ShutdownTimeout)*time.Second)
	defer cancel()
	endRequests()
	if serr := srv.Shutdown(ctx); serr != nil {
		d.log.Warn("requests still under way are broken off", "error", serr)
		_ = srv.Close() // nothing to do about it now
	}
	die()
	select {
	case <-ended:
	case <-ctx.Done():
		d.log.Warn("the engine did not end in time", "timeout", d.cfg.ShutdownTimeout)
	}
	return errors.Join(err, p.close())
}

// announce tells the world when the daemon is ready, and the watchdog that it lives.
func (d *daemon) announce(ctx context.Context, p *parts, api http.Handler, began time.Time) {
	select {
	case <-p.engine.Ready():
	case <-ctx.Done():
		return
	}
	for _, l := range d.listeners {
		d.log.Info("serving", "socket", l.name)
	}
	d.log.Info("ready", "version", version, "data-root", d.cfg.DataRoot, "exec-root", d.cfg.ExecRoot,
		"host-id", d.cfg.HostID, "took", time.Since(began).Round(time.Millisecond))
	notify("READY=1", "STATUS=ready")
	p.adopt()
	every := watchdogInterval() / 2
	if every <= 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := probe(ctx, api, every); err != nil {
			d.log.Error("the engine does not answer; the watchdog will end it", "error", err)
			continue
		}
		notify("WATCHDOG=1")
	}
}

// probe asks the API for something that needs the engine's locks.
func probe(ctx context.Context, api http.Handler, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/containers/json?limit=1", nil)
	if err != nil {
		return err
	}
	w := &answer{header: make(http.Header)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		api.ServeHTTP(w, r)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if w.status != http.StatusOK {
		return fmt.Errorf("it answers %d %s", w.status, http.StatusText(w.status))
	}
	return nil
}

// answer is a response of which only the status matters.
type answer struct {
	header http.Header
	status int
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(p []byte) (int, error) { return len(p), nil }
func (a *answer) WriteHeader(status int)      { a.status = status }

// wait handles signals until one says stop, or something failed.
func (d *daemon) wait(p *parts, failed <-chan error) error {
	for {
		select {
		case err := <-failed:
			return err
		case s := <-d.signals:
			switch s {
			case reloadSignal:
				d.reload(p)
			case dumpSignal:
				d.dump()
			default:
				d.log.Info("stopping; containers run on", "signal", s.String())
				go func() { // a second one means now
					for s := range d.signals {
						if s != reloadSignal && s != dumpSignal {
							d.log.Warn("stopping at once", "signal", s.String())
							os.Exit(1)
						}
					}
				}()
				return nil
			}
		}
	}
}

// reload reads configuration and policy again and applies what can be applied.
// A mistake in them changes nothing.
func (d *daemon) reload(p *parts) {
	notify("RELOADING=1", "MONOTONIC_USEC="+monotonicMicros())
	defer notify("READY=1")
	next, _, err := load(d.args)
	if err == nil {
		err = p.reload(next)
	}
	if err != nil {
		d.log.Error("reload refused, nothing changed", "error", err)
		return
	}
	live, restart := d.cfg.changed(next)
	setLevel(d.level, next.LogLevel)
	d.log.Info("reloaded policy and configuration", "changed", strings.Join(live, ", "))
	if len(restart) > 0 {
		d.log.Warn("some changes need a restart of the daemon", "options", strings.Join(restart, ", "))
	}
	d.cfg.takeOver(next)
}

// dump writes what all goroutines do into exec-root.
func (d *daemon) dump() {
	path := filepath.Join(d.cfg.ExecRoot, "goroutines-"+time.Now().UTC().Format("20060102T150405Z")+".txt")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		err = errors.Join(pprof.Lookup("goroutine").WriteTo(f, 2), f.Close())
	}
	if err != nil {
		d.log.Error("goroutine dump failed", "error", err)
		return
	}
	d.log.Info("wrote goroutine dump", "file", path)
}

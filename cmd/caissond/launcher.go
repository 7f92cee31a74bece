package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/backends/oci"
	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/plugin"
	"github.com/caisson-engine/caisson/engine/policy"
)

// backendPrefix begins the file names of backends.
const backendPrefix = "caisson-backend-"

// runtimeDriver is the backend that is no backend by itself: it becomes one for
// each runtime that the policy declares, under the runtime's name.
const runtimeDriver = "oci"

// launcher finds backends on disk and starts them as plugins.
type launcher struct {
	dirs     []string
	runtimes []policy.Runtime
	stateDir string
	env      []string
	dataRoot string
	options  map[string]string // backend.option → value
	level    slog.Level
	log      *slog.Logger
}

func newLauncher(c *config, runtimes []policy.Runtime, log *slog.Logger, level slog.Level) *launcher {
	return &launcher{
		runtimes: runtimes,
		dirs:     c.backendDirs(),
		stateDir: filepath.Join(c.ExecRoot, "backends"),
		env:      []string{backend.EnvHostID + "=" + c.HostID, backend.EnvCgroupParent + "=" + c.CgroupParent},
		dataRoot: filepath.Join(c.DataRoot, "backends"),
		options:  c.BackendOpts,
		level:    level,
		log:      log,
	}
}

// Discover lists the executable files with a backend's name, then the declared
// runtimes. The directory named first wins where two have the same.
func (l *launcher) Discover() ([]engine.BackendBinary, error) {
	var out []engine.BackendBinary
	driver := backendPrefix + runtimeDriver // its name in messages if it is nowhere
	for _, dir := range l.dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // most hosts lack some of the default directories
		}
		for _, e := range entries {
			name, ok := strings.CutPrefix(e.Name(), backendPrefix)
			if runtime.GOOS == "windows" {
				base, exe := strings.CutSuffix(name, ".exe")
				name, ok = base, ok && exe
			}
			path := filepath.Join(dir, e.Name())
			if !ok || !validName(name) || !executable(path) ||
				slices.ContainsFunc(out, func(b engine.BackendBinary) bool { return b.Name == name }) {
				continue
			}
			if name == runtimeDriver {
				if !filepath.IsAbs(driver) {
					driver = path
				}
				continue
			}
			out = append(out, engine.BackendBinary{Name: name, Path: path})
		}
	}
	for _, r := range l.runtimes {
		if slices.ContainsFunc(out, func(b engine.BackendBinary) bool { return b.Name == r.Name }) {
			l.log.Error("a declared runtime has the name of an installed backend and is left out", "runtime", r.Name)
			continue
		}
		out = append(out, engine.BackendBinary{Name: r.Name, Path: driver})
	}
	return out, nil
}

// environment is what one backend gets: what all get, its directory, its options
// and, for a runtime, its declaration.
func (l *launcher) environment(name string) ([]string, error) {
	env := append(slices.Clone(l.env), backend.EnvDataDir+"="+filepath.Join(l.dataRoot, name))
	for key, value := range l.options {
		if option, ok := strings.CutPrefix(key, name+"."); ok {
			env = append(env, variable(name, option)+"="+value)
		}
	}
	if i := slices.IndexFunc(l.runtimes, func(r policy.Runtime) bool { return r.Name == name }); i >= 0 {
		r := l.runtimes[i]
		declaration := oci.Runtime{
			Name: r.Name, Path: r.Path, Args: r.Args, Kind: r.Kind, Level: r.Level, Strength: int32(r.Strength), Facts: r.Facts,
		}
		declared, err := declaration.Env()
		if err != nil {
			return nil, err
		}
		env = append(env, declared)
	}
	slices.Sort(env)
	return env, nil
}

// variable is the environment's word for an option: vm.pool-age is
// CAISSON_VM_POOL_AGE.
func variable(name, option string) string {
	return "CAISSON_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(name+"_"+option))
}

// validName keeps names that are safe as a directory's and in messages.
func validName(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && (runtime.GOOS == "windows" || st.Mode().Perm()&0o111 != 0)
}

// Launch takes over the backend that runs, or starts it.
func (l *launcher) Launch(ctx context.Context, b engine.BackendBinary) (engine.BackendProcess, error) {
	st, err := os.Stat(b.Path)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w: %w", b.Name, err, errdefs.ErrNotFound)
	}
	if runtime.GOOS != "windows" && st.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("backend %s: everyone may write to %s, so it is not run: chmod o-w it: %w", b.Name, b.Path, errdefs.ErrPermissionDenied)
	}
	env, err := l.environment(b.Name)
	if err != nil {
		return nil, err
	}
	c, err := plugin.Launch(ctx, plugin.Options{
		Name:     b.Name,
		Path:     b.Path,
		StateDir: filepath.Join(l.stateDir, b.Name),
		Env:      env,
		LogLevel: l.level,
		Log:      l.log,
	})
	if err != nil {
		return nil, err
	}
	return process{c}, nil
}

// process is a plugin as the engine wants it.
type process struct{ *plugin.Client }

func (p process) Disconnect() error {
	p.Client.Disconnect()
	return nil
}

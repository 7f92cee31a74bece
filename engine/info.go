package engine

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"

	"github.com/caisson-engine/caisson/engine/container"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/logs"
	"github.com/caisson-engine/caisson/images"
)

// Facts of a backend that info shows under Docker's names too.
const (
	factCgroupVersion = "cgroup.version" // 1 or 2
	factCgroupDriver  = "cgroup.driver"
	factController    = "cgroup." // + controller: true or false
)

// Info tells what this engine is, what it has and what this host offers.
func (e *Engine) Info(ctx context.Context) (system.Info, error) {
	h := e.cfg.Host
	d, _ := e.settings()
	info := system.Info{
		ID: e.cfg.HostID, Name: h.Hostname, ServerVersion: h.ServerVersion,
		Driver: storageDriver, DockerRootDir: e.cfg.DataRoot, SystemTime: e.now().Format(time.RFC3339Nano),
		KernelVersion: h.KernelVersion, OperatingSystem: h.OperatingSystem, OSVersion: h.OSVersion, OSType: h.OSType,
		Architecture: machine(h.Arch), NCPU: h.NCPU, MemTotal: h.MemTotal, IPv4Forwarding: h.IPv4Forwarding,
		NGoroutines: runtime.NumGoroutine(), LoggingDriver: d.LogDriver, Labels: d.Labels,
		IndexServerAddress: "https://index.docker.io/v1/", InitBinary: h.InitBinary, LiveRestoreEnabled: true,
		SecurityOptions: h.SecurityOptions, Runtimes: map[string]system.RuntimeWithStatus{},
		Plugins:  system.PluginsInfo{Volume: []string{"local"}, Network: []string{"bridge", "host", "ipvlan", "macvlan", "null"}, Log: logs.Drivers()},
		Warnings: slices.Concat(h.Warnings, e.cfg.Network.Warnings()),
	}
	if info.LoggingDriver == "" {
		info.LoggingDriver = logs.JSONFile
	}
	for _, c := range e.ctrs.Visible(identity.From(ctx)) {
		_, st := c.view()
		info.Containers++
		switch {
		case st.State == container.Paused:
			info.ContainersPaused++
		case st.State.Alive():
			info.ContainersRunning++
		default:
			info.ContainersStopped++
		}
	}
	list, err := e.cfg.Images.List(ctx, images.ListOptions{})
	if err != nil {
		return info, err
	}
	info.Images = len(list)
	backends, err := e.Backends(ctx)
	if err != nil {
		return info, err
	}
	info.DriverStatus = append(info.DriverStatus, e.diskRow())
	for _, b := range backends {
		describe(&info, b)
	}
	if n := len(e.Violations(ctx)); n > 0 {
		info.Warnings = append(info.Warnings, fmt.Sprintf("%d of the containers would not be allowed by the policy as it is now: see caisson policy violations", n))
	}
	return info, nil
}

// describe adds a backend: a runtime for each of its levels, rows for what the
// host owner must see, and what it warns of.
func describe(info *system.Info, b BackendStatus) {
	row := func(key, format string, a ...any) {
		info.DriverStatus = append(info.DriverStatus, [2]string{"Backend " + b.Name + key, fmt.Sprintf(format, a...)})
	}
	if b.Problem != "" {
		row("", "not usable: %s", b.Problem)
		info.Warnings = append(info.Warnings, fmt.Sprintf("backend %s cannot be used: %s", b.Name, b.Problem))
		return
	}
	var levels []string
	for _, l := range b.Levels {
		levels = append(levels, fmt.Sprintf("%s (strength %d)", l.Name, l.Strength))
		name := b.Name + "/" + l.Name
		info.Runtimes[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: b.Path}}
		if info.DefaultRuntime == "" && l.Name == b.DefaultLevel {
			info.DefaultRuntime = name
			info.Isolation = isolationOf(l.Name)
		}
	}
	row("", "version %s, %s/%s, levels %s", b.Version, b.OS, b.Arch, strings.Join(levels, ", "))
	row(" capabilities", "%s", strings.Join(b.Capabilities, ", "))
	for _, key := range slices.Sorted(maps.Keys(b.Facts)) {
		row(" "+key, "%s", b.Facts[key])
	}
	for _, w := range b.Warnings {
		info.Warnings = append(info.Warnings, "backend "+b.Name+": "+w)
	}
	if v := b.Facts[factCgroupVersion]; v != "" {
		info.CgroupVersion, info.CgroupDriver = v, b.Facts[factCgroupDriver]
	}
	for name, flags := range map[string][]*bool{
		"memory": {&info.MemoryLimit, &info.SwapLimit, &info.OomKillDisable},
		"cpu":    {&info.CPUCfsPeriod, &info.CPUCfsQuota, &info.CPUShares},
		"cpuset": {&info.CPUSet},
		"pids":   {&info.PidsLimit},
	} {
		for _, f := range flags {
			*f = *f || b.Facts[factController+name] == "true"
		}
	}
}

// isolationOf is a level in the words that typed clients know.
func isolationOf(level string) apicontainer.Isolation {
	if i, ok := isolations[level]; ok {
		return i
	}
	return apicontainer.IsolationDefault
}

var isolations = map[string]apicontainer.Isolation{
	"process": apicontainer.IsolationProcess,
	"vm":      apicontainer.IsolationHyperV,
}

// machine is an architecture as uname has it, which is what Docker shows.
func machine(goarch string) string {
	if m, ok := machines[goarch]; ok {
		return m
	}
	return goarch
}

var machines = map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686"}

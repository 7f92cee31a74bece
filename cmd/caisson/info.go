package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/format"
	"github.com/caisson-engine/caisson/engine/client"
)

var infoCommand = command{
	name:  "info",
	args:  "[OPTIONS]",
	short: "Display system-wide information",
	examples: []string{
		"info # The engine, its backends and what this host lacks",
		"info -f '{{.DefaultRuntime}}' # One fact",
	},
	sameAs: []string{"system info", "info"},
	setup: func(a *app, f *pflag.FlagSet) action {
		tmpl := f.StringP("format", "f", "", objectFormatUsage)
		return func(ctx context.Context, _ []string) error {
			c := a.clientVersion()
			api, err := a.client()
			var info client.Info
			var raw json.RawMessage
			if err == nil {
				info, raw, err = api.Info(ctx)
			}
			if *tmpl != "" {
				return infoFormat(a.out, *tmpl, c, raw, err)
			}
			fmt.Fprintln(a.out, "Client:")
			section(a.out, [][2]string{{"Version", c.Version}, {"Context", c.Context}})
			fmt.Fprintln(a.out, "\nServer:")
			if err != nil {
				return err
			}
			printInfo(a.out, info)
			for _, w := range info.Warnings {
				fmt.Fprintln(a.err, w)
			}
			return nil
		}
	},
}

// infoFormat shows the engine's answer with what the client adds to it.
func infoFormat(w io.Writer, tmpl string, c clientVersion, raw json.RawMessage, failed error) error {
	var typed struct {
		client.Info
		ServerErrors []string
		ClientInfo   clientVersion
	}
	all := map[string]any{}
	typed.ClientInfo = c
	if failed == nil {
		v, err := decode(raw)
		if err == nil {
			err = json.Unmarshal(raw, &typed.Info)
		}
		if err != nil {
			return err
		}
		all, _ = v.(map[string]any)
	} else {
		typed.ServerErrors = []string{failed.Error()}
		all["ServerErrors"] = typed.ServerErrors
	}
	all["ClientInfo"] = c
	if err := format.Either(w, tmpl, typed, all); err != nil {
		return &statusError{code: 64, err: err}
	}
	return failed
}

func printInfo(w io.Writer, i client.Info) {
	row := func(k string, v any) {
		if s := fmt.Sprint(v); s != "" {
			fmt.Fprintf(w, " %s: %s\n", k, s)
		}
	}
	row("Containers", i.Containers)
	row(" Running", i.ContainersRunning)
	row(" Paused", i.ContainersPaused)
	row(" Stopped", i.ContainersStopped)
	row("Images", i.Images)
	row("Server Version", i.ServerVersion)
	row("Storage Driver", i.Driver)
	for _, p := range i.DriverStatus {
		row(" "+p[0], p[1])
	}
	for _, p := range i.SystemStatus {
		row(p[0], p[1])
	}
	row("Logging Driver", i.LoggingDriver)
	row("Cgroup Driver", i.CgroupDriver)
	row("Cgroup Version", i.CgroupVersion)
	fmt.Fprintln(w, " Plugins:")
	for _, p := range []struct {
		kind  string
		names []string
	}{{"Volume", i.Plugins.Volume}, {"Network", i.Plugins.Network}, {"Authorization", i.Plugins.Authorization}, {"Log", i.Plugins.Log}} {
		row(" "+p.kind, strings.Join(p.names, " "))
	}
	names := make([]string, 0, len(i.Runtimes))
	for n := range i.Runtimes {
		names = append(names, n)
	}
	slices.Sort(names)
	row("Runtimes", strings.Join(names, " "))
	row("Default Runtime", i.DefaultRuntime)
	row("Isolation", i.Isolation)
	row("Init Binary", i.InitBinary)
	if len(i.SecurityOptions) > 0 {
		fmt.Fprintln(w, " Security Options:")
		for _, o := range i.SecurityOptions {
			printSecurity(w, o)
		}
	}
	row("Kernel Version", i.KernelVersion)
	row("Operating System", i.OperatingSystem)
	row("OSType", i.OSType)
	row("Architecture", i.Architecture)
	row("CPUs", i.NCPU)
	row("Total Memory", units.BytesSize(float64(i.MemTotal)))
	row("Name", i.Name)
	row("ID", i.ID)
	row("Root Dir", i.DockerRootDir)
	row("Debug Mode", i.Debug)
	if i.Debug {
		row(" File Descriptors", i.NFd)
		row(" Goroutines", i.NGoroutines)
		row(" System Time", i.SystemTime)
		row(" EventsListeners", i.NEventsListener)
	}
	row("HTTP Proxy", i.HTTPProxy)
	row("HTTPS Proxy", i.HTTPSProxy)
	row("No Proxy", i.NoProxy)
	if len(i.Labels) > 0 {
		fmt.Fprintln(w, " Labels:")
		for _, l := range i.Labels {
			fmt.Fprintf(w, "  %s\n", l)
		}
	}
	printRegistries(w, i)
	row("Live Restore Enabled", i.LiveRestoreEnabled)
	if fb := i.FirewallBackend; fb != nil {
		row("Firewall Backend", fb.Driver)
		for _, p := range fb.Info {
			row(" "+p[0], p[1])
		}
	}
	if len(i.DefaultAddressPools) > 0 {
		fmt.Fprintln(w, " Default Address Pools:")
		for _, p := range i.DefaultAddressPools {
			fmt.Fprintf(w, "   Base: %s, Size: %d\n", p.Base, p.Size)
		}
	}
	fmt.Fprintln(w)
}

// printSecurity shows name=seccomp,profile=builtin as a line and its details.
func printSecurity(w io.Writer, opt string) {
	for part := range strings.SplitSeq(opt, ",") {
		k, v, ok := strings.Cut(part, "=")
		switch {
		case !ok:
			fmt.Fprintf(w, "  %s\n", part)
		case k == "name":
			fmt.Fprintf(w, "  %s\n", v)
		default:
			fmt.Fprintf(w, "   %s: %s\n", title(k), v)
		}
	}
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func printRegistries(w io.Writer, i client.Info) {
	r := i.RegistryConfig
	if r == nil {
		return
	}
	var insecure []string
	for name, ix := range r.IndexConfigs {
		if !ix.Secure {
			insecure = append(insecure, name)
		}
	}
	slices.Sort(insecure)
	if all := append(insecure, r.InsecureRegistryCIDRs...); len(all) > 0 {
		fmt.Fprintln(w, " Insecure Registries:")
		for _, n := range all {
			fmt.Fprintf(w, "  %s\n", n)
		}
	}
	if len(r.Mirrors) > 0 {
		fmt.Fprintln(w, " Registry Mirrors:")
		for _, m := range r.Mirrors {
			fmt.Fprintf(w, "  %s\n", m)
		}
	}
}

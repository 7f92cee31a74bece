//go:build linux

// Command caisson-backend-oci is the backend plugin that drives an OCI runtime
// which the host owner declared in the policy file. caissond starts one for each.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/caisson-engine/caisson/backends/oci"
	"github.com/caisson-engine/caisson/backends/oci/monitor"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/plugin"
)

// version is set by the build.
var version = "dev"

// monitorVerb makes this process a monitor (see package monitor).
const monitorVerb = "monitor"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) == 3 && os.Args[1] == monitorVerb {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go plugin.KeepSmall(ctx)
		return monitor.Main(ctx, os.Args[2])
	}
	return plugin.Serve(open)
}

func open(ctx context.Context, h plugin.Host) (backend.Backend, error) {
	rt, err := oci.ParseRuntime(os.Getenv(oci.EnvRuntime))
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return oci.Open(ctx, oci.Config{
		Runtime: rt, StateDir: h.StateDir, CgroupParent: cgroupParent(h), Version: version,
		Monitor: []string{self, monitorVerb}, Log: h.Log,
	})
}

func cgroupParent(h plugin.Host) string {
	if h.CgroupParent == "" && h.HostID != "" {
		return "/caisson-" + h.HostID
	}
	return h.CgroupParent
}

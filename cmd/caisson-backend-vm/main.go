//go:build linux

// Command caisson-backend-vm is the backend plugin that runs containers in virtual
// machines. caissond starts it.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/caisson-engine/caisson/backends/vm"
	"github.com/caisson-engine/caisson/engine/backend"
	"github.com/caisson-engine/caisson/engine/backend/plugin"
)

// version is set by the build.
var version = "dev"

func main() {
	if err := plugin.Serve(open); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func open(ctx context.Context, h plugin.Host) (backend.Backend, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	options, err := vm.FromEnvironment()
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(self)
	guests := []string{filepath.Join(dir, "guest"), "/usr/lib/caisson/guest"}
	if d := os.Getenv(vm.EnvGuestDir); d != "" {
		guests = []string{d}
	}
	return vm.Open(ctx, vm.Config{
		StateDir: h.StateDir, CgroupParent: cgroupParent(h), Version: version, Options: options,
		ShimPath: filepath.Join(dir, "caisson-vmshim"), GuestDirs: guests, ImageDir: os.Getenv(backend.EnvDataDir), Log: h.Log,
	})
}

func cgroupParent(h plugin.Host) string {
	if h.CgroupParent == "" && h.HostID != "" {
		return "/caisson-" + h.HostID
	}
	return h.CgroupParent
}

//go:build linux

// Command caisson-backend-linux is the backend plugin that runs containers as
// processes of this host's kernel. caissond starts it.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/caisson-engine/caisson/backends/linux"
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
	dir := filepath.Dir(self)
	return linux.Open(ctx, linux.Config{
		StateDir: h.StateDir, CgroupParent: cgroupParent(h), Version: version,
		InitPath: filepath.Join(dir, "caisson-init"), KeeperPath: filepath.Join(dir, "caisson-keeper"), Log: h.Log,
	})
}

func cgroupParent(h plugin.Host) string {
	if h.CgroupParent == "" && h.HostID != "" {
		return "/caisson-" + h.HostID
	}
	return h.CgroupParent
}

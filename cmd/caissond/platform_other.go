//go:build !linux

package main

import (
	"fmt"
	"log/slog"
	"runtime"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/engine/spec"
)

// platform is what the operating system contributes.
type platform struct {
	host    engine.Host
	bootID  string
	network *network.Manager
	devices spec.Devices
	disks   engine.Disks
	mounts  engine.Mounts
	adopt   func(*launcher)
	retire  func()
	close   func() error
}

func newPlatform(*config, *slog.Logger) (*platform, error) {
	return nil, fmt.Errorf("caissond cannot run containers on %s in this version: it has no network driver for it", runtime.GOOS)
}

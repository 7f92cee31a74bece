//go:build !linux

package store

import (
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
)

// UpperdirLabel is where a snapshot tells its own layer's directory.
const UpperdirLabel = "containerd.io/snapshot/overlay.upperdir"

// DefaultSnapshotter is the name of the platform's snapshotter.
const DefaultSnapshotter = "native"

// NewSnapshotter opens the platform's snapshotter below dir.
func NewSnapshotter(dir string) (snapshots.Snapshotter, error) { return native.NewSnapshotter(dir) }

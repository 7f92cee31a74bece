//go:build !linux

package images

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// freeDisk is not known here: the configured limit alone counts.
func freeDisk(string) (int64, error) {
	return 0, fmt.Errorf("free disk space: %w", errdefs.ErrNotImplemented)
}

// bootID is unknown: nothing is distrusted after a restart.
func bootID() string { return "" }

// syncDisk leaves it to the operating system.
func syncDisk(string) error { return nil }

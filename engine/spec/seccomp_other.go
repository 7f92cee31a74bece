//go:build !linux

package spec

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// A filter depends on the kernel that runs it, which this host is not.
func builtinProfile(*specs.Spec) (*specs.LinuxSeccomp, error) {
	return nil, fmt.Errorf("seccomp filters can be made on Linux only: %w", errdefs.ErrNotImplemented)
}

func loadProfile(string, *specs.Spec) (*specs.LinuxSeccomp, error) {
	return nil, errors.New("seccomp filters can be made on Linux only")
}

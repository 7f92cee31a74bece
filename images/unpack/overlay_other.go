//go:build !linux

package unpack

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// Overlay is for Linux's overlay file system.
func Overlay(context.Context, io.Reader, string, Options) (Result, error) {
	return Result{}, fmt.Errorf("overlay layers: %w", errdefs.ErrNotImplemented)
}

// Adopt is for layers that Overlay unpacked.
func Adopt(string, []string, []string) error { return nil }

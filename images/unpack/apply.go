package unpack

import (
	"archive/tar"
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
)

// Apply unpacks the layer r over dir, which holds the layers below it: a
// whiteout deletes. It is the way of snapshotters that are no overlay.
func Apply(ctx context.Context, r io.Reader, dir string, o Options) (Result, error) {
	return stream(ctx, r, o, func(ctx context.Context, tr io.Reader, o Options) ([]string, error) {
		left := o.Entries
		if left == 0 {
			left = DefaultEntries
		}
		_, err := archive.Apply(ctx, dir, tr, archive.WithFilter(func(h *tar.Header) (bool, error) {
			if left--; left < 0 {
				return false, fmt.Errorf("layer has too many entries: %w", errdefs.ErrInvalidArgument)
			}
			return true, o.Budget.Take(h.Size)
		}))
		return nil, err
	})
}

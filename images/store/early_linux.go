package store

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// earlyStep is how much is written between two hints to the kernel, bytes.
const earlyStep = 8 << 20

// earlyStore is a content store whose blobs go to the disk while they are
// being written. The store syncs each when it is complete: that wait, seconds
// for a large layer, is by then mostly over.
type earlyStore struct {
	content.Store
	root string
}

func early(s content.Store, root string) content.Store { return &earlyStore{s, root} }

func (s *earlyStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.Store.Writer(ctx, opts...)
	if err != nil {
		return nil, err
	}
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			w.Close()
			return nil, err
		}
	}
	// The store's layout on disk: ingest/<hash of the reference>/data.
	if f, err := os.Open(filepath.Join(s.root, "ingest", digest.FromString(o.Ref).Encoded(), "data")); err == nil {
		return &earlyWriter{Writer: w, f: f}, nil
	}
	return w, nil // only slower
}

// WalkStatusRefs is what garbage collection looks for on a content store.
func (s *earlyStore) WalkStatusRefs(ctx context.Context, fn func(string) error) error {
	if w, ok := s.Store.(interface {
		WalkStatusRefs(context.Context, func(string) error) error
	}); ok {
		return w.WalkStatusRefs(ctx, fn)
	}
	all, err := s.ListStatuses(ctx)
	if err != nil {
		return err
	}
	for _, st := range all {
		if err := fn(st.Ref); err != nil {
			return err
		}
	}
	return nil
}

type earlyWriter struct {
	content.Writer
	f       *os.File
	pending int
}

func (w *earlyWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if w.pending += n; w.pending >= earlyStep {
		w.pending = 0
		// Offset and length 0 mean the whole file; what is on its way is skipped.
		_ = unix.SyncFileRange(int(w.f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}

// Sync is what the metadata store looks for before it takes its lock.
func (w *earlyWriter) Sync() error { return w.f.Sync() }

func (w *earlyWriter) Close() error {
	w.f.Close()
	return w.Writer.Close()
}

func (w *earlyWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	defer w.f.Close()
	return w.Writer.Commit(ctx, size, expected, opts...)
}

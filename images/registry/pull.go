package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// stall is how long a download may stand still before it is tried again.
	stall = 60 * time.Second
	// attempts is how often a download is taken up again without progress.
	attempts = 5
	// pause is the wait before the second attempt; it doubles.
	pause = 200 * time.Millisecond
)

// schema1 starts the media types of manifests that are long obsolete.
const schema1 = "application/vnd.docker.distribution.manifest.v1+"

// Resolve returns what the reference points to now.
func (r *Repo) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	_, d, err := r.resolver.Resolve(ctx, r.Name.String())
	if err != nil && strings.HasPrefix(err.Error(), "rejecting ") {
		// The resolver's only error without a kind of its own.
		return d, fmt.Errorf("registry %s: %w: at most %d bytes are allowed: %w", reference.Domain(r.Name), err, docker.MaxManifestSize, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return d, explain(err, "pull", r.Name)
	}
	if strings.HasPrefix(d.MediaType, schema1) {
		return d, fmt.Errorf("image %s has a manifest of the obsolete schema 1, which is not supported; ask its publisher to push it with a current tool: %w", reference.FamiliarString(r.Name), errdefs.ErrInvalidArgument)
	}
	if !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) {
		// A careless registry; what it is shows when it is here.
		d.MediaType = ocispec.MediaTypeImageManifest
	}
	if err := d.Digest.Validate(); err != nil {
		return d, fmt.Errorf("registry %s answered with a bad digest: %w: %w", reference.Domain(r.Name), err, errdefs.ErrInvalidArgument)
	}
	return d, nil
}

// Fetch downloads a blob or manifest from offset on into write, in order. A
// connection that breaks or stands still is taken up where it broke. What
// arrives is not verified here.
func (r *Repo) Fetch(ctx context.Context, d ocispec.Descriptor, offset int64, write func([]byte) error) error {
	// Where else a blob may be found is the image's word: not followed.
	d.URLs = nil
	resolver := r.resolver
	if d.Size-offset >= r.rangeFrom {
		resolver = r.ranged
	}
	f, err := resolver.Fetcher(ctx, r.Name.String())
	if err != nil {
		return explain(err, "pull", r.Name)
	}
	buf := make([]byte, 256<<10)
	wait := pause
	for failed := 0; ; {
		n, err := r.fetchOnce(ctx, f, d, offset, buf, write)
		offset += n
		if n > 0 {
			failed, wait = 0, pause
		}
		var we *writeError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &we):
			return we.err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		err = explain(err, "pull", r.Name)
		if failed++; failed >= attempts || permanent(err) {
			return fmt.Errorf("download %s: %w", d.Digest, err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wait *= 2
	}
}

func permanent(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsPermissionDenied(err) || errdefs.IsInvalidArgument(err) ||
		errdefs.IsUnauthorized(err) || errdefs.IsFailedPrecondition(err) || errdefs.IsResourceExhausted(err)
}

// writeError is an error of the receiving side.
type writeError struct{ err error }

func (w *writeError) Error() string { return w.err.Error() }

func (r *Repo) fetchOnce(ctx context.Context, f remotes.Fetcher, d ocispec.Descriptor, offset int64, buf []byte, write func([]byte) error) (n int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	still := time.AfterFunc(stall, func() {
		cancel(fmt.Errorf("no data for %v: %w", stall, errdefs.ErrUnavailable))
	})
	defer still.Stop()
	rc, err := f.Fetch(ctx, d)
	if err != nil {
		return 0, cause(ctx, err)
	}
	defer rc.Close()
	if offset > 0 {
		s, ok := rc.(io.Seeker)
		if !ok {
			return 0, fmt.Errorf("download cannot be resumed: %w", errdefs.ErrFailedPrecondition)
		}
		if _, err := s.Seek(offset, io.SeekStart); err != nil {
			return 0, err
		}
	}
	for {
		m, err := rc.Read(buf)
		if m > 0 {
			still.Reset(stall)
			if d.Size > 0 && offset+n+int64(m) > d.Size {
				return n, fmt.Errorf("registry sends more than the %d bytes announced: %w", d.Size, errdefs.ErrInvalidArgument)
			}
			if err := write(buf[:m]); err != nil {
				return n, &writeError{err}
			}
			n += int64(m)
		}
		if errors.Is(err, io.EOF) {
			if d.Size > 0 && offset+n < d.Size {
				return n, fmt.Errorf("blob is truncated: %d of %d bytes: %w", offset+n, d.Size, errdefs.ErrUnavailable)
			}
			return n, nil
		}
		if err != nil {
			return n, cause(ctx, err)
		}
	}
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

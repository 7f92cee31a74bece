package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Options bound and direct the unpacking of one layer.
type Options struct {
	Decompressor Decompressor
	Budget       *Budget
	Entries      int // most entries; 0: DefaultEntries
}

// Result is what a layer turned out to be.
type Result struct {
	DiffID      digest.Digest // of the tar, uncompressed
	Size        int64         // of the tar, bytes
	Compression Compression
	// Implied are directories that the layer has files in but no entry for;
	// the overlay would hide the lower directory's mode and owner by ours.
	Implied []string
}

// applier writes the entries of a tar stream somewhere.
type applier func(ctx context.Context, tr io.Reader, o Options) (implied []string, err error)

// stream decompresses and hashes r while apply consumes it, then reads it to
// its end. Damage in the data is InvalidArgument; an error that r itself
// returned is found by errors.As as a *SourceError. On failure r is closed if it
// can be, so that nothing keeps waiting for it.
func stream(ctx context.Context, r io.Reader, o Options, apply applier) (res Result, err error) {
	src := &sourceReader{r: r}
	dec, c, err := o.Decompressor.Open(ctx, src)
	if err != nil {
		return res, err
	}
	p := newPump(ctx, src, dec)
	defer func() {
		if err != nil {
			if a, ok := dec.(interface{ abort() }); ok {
				a.abort()
			}
			if c, ok := r.(io.Closer); ok {
				c.Close()
			}
		}
		p.close()
		dec.Close()
	}()
	implied, err := apply(ctx, p, o)
	if err != nil {
		return res, kind(ctx, err)
	}
	// Whatever follows the archive's end marker belongs to the digest.
	n, err := io.Copy(io.Discard, p)
	if err == nil {
		err = o.Budget.Take(n)
	}
	if err != nil {
		return res, kind(ctx, err)
	}
	return Result{DiffID: p.digest(), Size: p.size, Compression: c, Implied: implied}, nil
}

// kind gives tar's own errors theirs.
func kind(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		var se *SourceError
		if !errors.As(err, &se) {
			return fmt.Errorf("layer is not a complete tar archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return err
}

// Digest reads r to its end without unpacking it.
func Digest(ctx context.Context, r io.Reader, o Options) (Result, error) {
	return stream(ctx, r, o, func(context.Context, io.Reader, Options) ([]string, error) { return nil, nil })
}

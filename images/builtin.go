package images

import (
	"context"
	"io"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images/ref"
)

// builtin is an image that is part of the program.
type builtin struct {
	archive func() io.ReadCloser
	digest  digest.Digest
}

// EnsureBuiltin offers an image that is part of the program: when name is asked
// for by Get or Pull and is not here, or is here from an older program, archive
// (see archive.Build) is loaded. It touches no disk itself. dgst is the
// archive's index. InvalidArgument for a bad name.
func (s *Service) EnsureBuiltin(_ context.Context, name string, archive func() io.ReadCloser, dgst digest.Digest) error {
	n, err := ref.ParseTag(name)
	if err != nil {
		return err
	}
	s.builtins.Store(n.String(), &builtin{archive: archive, digest: dgst})
	return nil
}

// loadBuiltin loads the builtin image that text names, if it names one and
// that is not here. A user's own image of the name wins.
func (s *Service) loadBuiltin(ctx context.Context, c *catalog, text string) (bool, error) {
	if ref.IsFullID(text) {
		return false, nil
	}
	n, err := ref.Parse(text)
	if err != nil {
		return false, nil // find says what is wrong with it
	}
	v, ok := s.builtins.Load(n.String())
	if !ok {
		return false, nil
	}
	b := v.(*builtin)
	if e := c.names[n.String()]; e != nil && (!e.builtin || e.target.Digest == b.digest) {
		return false, nil
	}
	r := b.archive()
	defer r.Close()
	_, err = s.load(ctx, r, loadOptions{name: n.String(), labels: map[string]string{labelBuiltin: "true"}}, newReporter(nil))
	if err != nil {
		return false, wrap("load the builtin image "+reference.FamiliarString(n), err)
	}
	return true, nil
}

// pullBuiltin answers a pull of a builtin image without a registry; nil, nil
// if name is none.
func (s *Service) pullBuiltin(ctx context.Context, n reference.Named, platform *ocispec.Platform, r *reporter) (*Image, error) {
	if _, ok := s.builtins.Load(n.String()); !ok {
		return nil, nil
	}
	img, err := s.Get(ctx, n.String(), platform)
	if err != nil {
		return nil, err
	}
	tag := "latest"
	if t, ok := n.(reference.Tagged); ok {
		tag = t.Tag()
	}
	r.line(tag, "Pulling from "+reference.Path(n))
	r.line("", "Digest: "+img.ID.String())
	r.line("", "Status: Image is up to date for "+reference.FamiliarString(n))
	return img, nil
}

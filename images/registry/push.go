package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pushed tells how a blob got into the registry.
type Pushed struct {
	Existed     bool
	MountedFrom string // repository of the same registry, "" if none
}

// Pusher sends the blobs of one image.
type Pusher struct {
	repo *Repo
	p    remotes.Pusher
}

// Pusher opens the repository for writing.
func (r *Repo) Pusher(ctx context.Context) (*Pusher, error) {
	p, err := r.resolver.Pusher(ctx, r.Name.String())
	if err != nil {
		return nil, explain(err, "push", r.Name)
	}
	return &Pusher{r, p}, nil
}

// Push sends one blob or manifest unless it is there. from are repositories of
// the same registry that may have it. sent is told how much went out.
func (p *Pusher) Push(ctx context.Context, d ocispec.Descriptor, ra content.ReaderAt, from []string, sent func(int64)) (Pushed, error) {
	// The library looks for the repositories under the host without its port.
	u := url.URL{Host: reference.Domain(p.repo.Name)}
	d.Annotations = map[string]string{labels.LabelDistributionSource + "." + u.Hostname(): strings.Join(from, ",")}
	ctx = remotes.WithMediaTypeKeyPrefix(ctx, d.MediaType, "blob")
	key := remotes.MakeRefKey(ctx, d)
	w, err := p.p.Push(ctx, d)
	if errdefs.IsAlreadyExists(err) {
		st, serr := p.repo.tracker.GetStatus(key)
		if serr == nil && st.MountedFrom != "" {
			return Pushed{MountedFrom: st.MountedFrom}, nil
		}
		return Pushed{Existed: true}, nil
	}
	if err != nil {
		return Pushed{}, explain(err, "push", p.repo.Name)
	}
	defer w.Close()
	err = content.Copy(ctx, w, &meter{r: io.NewSectionReader(ra, 0, ra.Size()), sent: sent}, d.Size, d.Digest)
	if err != nil && !errors.Is(err, docker.ErrInvalidAuthorization) && ctx.Err() == nil {
		err = fmt.Errorf("push %s: %w", d.Digest, err)
	}
	return Pushed{}, explain(err, "push", p.repo.Name)
}

// meter counts what is read. It can be rewound, as a push may start over.
type meter struct {
	r    *io.SectionReader
	n    int64
	sent func(int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	m.sent(m.n)
	return n, err
}

func (m *meter) Seek(off int64, whence int) (int64, error) {
	n, err := m.r.Seek(off, whence)
	m.n = n
	return n, err
}

package tenants

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images"
)

// Pull downloads an image into the client's store; see images.Service.
func (s *Service) Pull(ctx context.Context, o images.PullOptions, p images.Progress) (*images.Image, error) {
	if err := s.cfg.Registry(ctx, images.RegistryOf(o.Ref)); err != nil {
		return nil, err
	}
	st, scope, err := s.ownToFill(ctx)
	if err != nil {
		return nil, err
	}
	img, err := st.Pull(ctx, o, p)
	if err != nil {
		return nil, err
	}
	return in(img, scope), nil
}

// Push sends an image to its registry; see images.Service.
func (s *Service) Push(ctx context.Context, o images.PushOptions, p images.Progress) error {
	if err := s.cfg.Registry(ctx, images.RegistryOf(o.Ref)); err != nil {
		return err
	}
	st, _, err := s.own(ctx)
	if err != nil {
		return err
	}
	if other, _, err := s.find(ctx, o.Ref, o.Platform); err == nil {
		st = other
	} // else the own store says what is missing, in a push's words
	return st.Push(ctx, o, p)
}

// Load stores an archive's images in the client's store; see images.Service.
func (s *Service) Load(ctx context.Context, r io.Reader, platform *ocispec.Platform, p images.Progress) ([]images.Loaded, error) {
	st, _, err := s.ownToFill(ctx)
	if err != nil {
		return nil, err
	}
	return st.Load(ctx, r, platform, p)
}

// Import makes an image in the client's store; see images.Service.
func (s *Service) Import(ctx context.Context, r io.Reader, o images.ImportOptions) (*images.Image, error) {
	st, scope, err := s.ownToFill(ctx)
	if err != nil {
		return nil, err
	}
	img, err := st.Import(ctx, r, o)
	if err != nil {
		return nil, err
	}
	return in(img, scope), nil
}

// Save writes images of one store as an archive; see images.Service.
func (s *Service) Save(ctx context.Context, refs []string, platform *ocispec.Platform, w io.Writer) error {
	st, scope, err := s.own(ctx)
	if err != nil {
		return err
	}
	// What is not the client's own is named exactly: another name of the same
	// repository may not be shared.
	exact := make([]string, len(refs))
	foreign := 0
	for i, ref := range refs {
		exact[i] = ref
		other, img, err := s.find(ctx, ref, platform)
		if err != nil || other == st && img.Store == scope {
			continue // the own store says what is wrong with it
		}
		foreign++
		if st = other; !images.IsID(ref) {
			exact[i] = images.FullName(ref)
		}
	}
	if foreign > 0 && foreign < len(refs) {
		return fmt.Errorf("images of yours and of others cannot be saved together: save them one by one: %w", errdefs.ErrInvalidArgument)
	}
	return st.Save(ctx, exact, platform, w)
}

// Tag gives an image a name in the client's store. One from elsewhere is copied
// there first.
func (s *Service) Tag(ctx context.Context, src, dst string) error {
	st, scope, err := s.own(ctx)
	if err != nil {
		return err
	}
	other, img, err := s.find(ctx, src, nil)
	if err != nil || other == st && img.Store == scope {
		return st.Tag(ctx, src, dst) // which says what is wrong
	}
	if _, err := s.cfg.Room(scope); err != nil {
		return err
	}
	if err := s.copy(ctx, other, st, img.ID); err != nil {
		return err
	}
	return st.Tag(ctx, img.ID.String(), dst)
}

// copy brings an image that the client sees into another store, without a name.
func (s *Service) copy(ctx context.Context, from, to *images.Service, id digest.Digest) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := from.Save(ctx, []string{id.String()}, nil, w)
		_ = w.CloseWithError(err) // it never fails
		done <- err
	}()
	_, err := to.Load(ctx, r, nil, nil)
	_ = r.CloseWithError(io.ErrClosedPipe) // the same
	if serr := <-done; err == nil && serr != nil {
		err = serr
	}
	if err != nil {
		return fmt.Errorf("copy image %s: %w", id, err)
	}
	return nil
}

// Commit makes an image of a base and a layer in the client's store, where the
// base is copied if it is shared; what an admin commits of a tenant's image goes
// into the tenant's.
func (s *Service) Commit(ctx context.Context, o images.CommitOptions, layer io.Reader) (*images.Image, error) {
	st, scope, err := s.ownToFill(ctx)
	if err != nil {
		return nil, err
	}
	if o.Base != "" {
		other, base, err := s.find(ctx, o.Base.String(), o.Platform)
		switch {
		case err != nil:
			return nil, err
		case other == st:
		case scope == "":
			st, scope = other, base.Store
		default:
			if err := s.copy(ctx, other, st, base.ID); err != nil {
				return nil, err
			}
		}
	}
	img, err := st.Commit(ctx, o, layer)
	if err != nil {
		return nil, err
	}
	return in(img, scope), nil
}

// Delete deletes an image or a name of one; see images.Service.
func (s *Service) Delete(ctx context.Context, ref string, force, prune bool, users func(digest.Digest) []string) ([]images.Deleted, error) {
	st, scope, err := s.own(ctx)
	if err != nil {
		return nil, err
	}
	switch other, _, err := s.find(ctx, ref, nil); {
	case err != nil || other == st: // the own store says what is wrong
	case scope != "":
		return nil, fmt.Errorf("image %s is shared by the host's owner, who alone can delete it: %w", ref, errdefs.ErrPermissionDenied)
	default:
		st = other
	}
	return st.Delete(ctx, ref, force, prune, users)
}

// Prune deletes what is unused in the client's own store; see images.Service.
func (s *Service) Prune(ctx context.Context, filters map[string][]string, users func(digest.Digest) []string) ([]images.Deleted, uint64, error) {
	st, _, err := s.own(ctx)
	if err != nil {
		return nil, 0, err
	}
	return st.Prune(ctx, filters, users)
}

// DiskUsage is the size of what a client sees: its own store, the owner's and
// all tenants' for the owner.
func (s *Service) DiskUsage(ctx context.Context) (int64, error) {
	st, scope, err := s.own(ctx)
	if err != nil {
		return 0, err
	}
	sum, err := st.DiskUsage(ctx)
	if err != nil || scope != "" {
		return sum, err
	}
	scopes, err := s.scopes()
	if err != nil {
		return 0, err
	}
	for _, scope := range scopes {
		st, err := s.store(ctx, scope)
		if err != nil {
			return 0, err
		}
		n, err := st.DiskUsage(ctx)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// Search asks a registry; see images.Service.
func (s *Service) Search(ctx context.Context, term string, limit int, auth *images.Auth) ([]images.SearchResult, error) {
	if err := s.cfg.Registry(ctx, images.RegistryOf(term)); err != nil {
		return nil, err
	}
	return s.host.Search(ctx, term, limit, auth)
}

// Login checks a credential; see images.Service.
func (s *Service) Login(ctx context.Context, address string, auth images.Auth) (string, error) {
	host := address
	if host == "" {
		host = auth.ServerAddress
	}
	if err := s.cfg.Registry(ctx, images.RegistryHost(host)); err != nil {
		return "", err
	}
	return s.host.Login(ctx, address, auth)
}

// rootStore is where a writable layer is.
func (s *Service) rootStore(ctx context.Context, key string) (*images.Service, error) {
	s.mu.Lock()
	scope := s.roots[key]
	s.mu.Unlock()
	return s.store(ctx, scope)
}

// Prepare makes a writable layer on an image, beside it; see images.Service.
func (s *Service) Prepare(ctx context.Context, key string, img *images.Image, confine func(dirs ...string) error) ([]images.Mount, error) {
	st, err := s.store(ctx, img.Store)
	if err != nil {
		return nil, err
	}
	if img.Store != "" {
		s.mu.Lock()
		_, taken := s.roots[key]
		if !taken {
			s.roots[key] = img.Store
		}
		s.mu.Unlock()
		if taken {
			return nil, fmt.Errorf("root filesystem %s: %w", key, errdefs.ErrAlreadyExists)
		}
	}
	m, err := st.Prepare(ctx, key, img, confine)
	if err != nil && img.Store != "" {
		s.forget(key)
	}
	return m, err
}

func (s *Service) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.roots, key)
}

// Mounts returns what Prepare returned.
func (s *Service) Mounts(ctx context.Context, key string) ([]images.Mount, error) {
	st, err := s.rootStore(ctx, key)
	if err != nil {
		return nil, err
	}
	return st.Mounts(ctx, key)
}

// Release deletes the writable layer. Idempotent.
func (s *Service) Release(ctx context.Context, key string) error {
	st, err := s.rootStore(ctx, key)
	if err != nil {
		return err
	}
	if err := st.Release(ctx, key); err != nil {
		return err
	}
	s.forget(key)
	return nil
}

// Roots lists the keys of all writable layers, of every store.
func (s *Service) Roots(ctx context.Context) ([]string, error) {
	keys, err := s.host.Roots(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.roots {
		keys = append(keys, k)
	}
	return keys, nil
}

// RootUsage is the size of the writable layer in bytes.
func (s *Service) RootUsage(ctx context.Context, key string) (int64, error) {
	st, err := s.rootStore(ctx, key)
	if err != nil {
		return 0, err
	}
	return st.RootUsage(ctx, key)
}

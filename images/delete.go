package images

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/caisson-engine/caisson/images/ref"
	"github.com/caisson-engine/caisson/images/store"
)

// Delete removes a name, or an image with all its names if force or if it has
// one. users tells which containers need an image. Conflicts are
// FailedPrecondition in Docker's words. The bytes go in the background; those
// that a writable layer stands on stay until Release.
func (s *Service) Delete(ctx context.Context, text string, force, prune bool, users func(digest.Digest) []string) ([]Deleted, error) {
	s.roots.mu.Lock()
	defer s.roots.mu.Unlock()
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	e, stored, err := s.find(ctx, c, text)
	if err != nil {
		return nil, err
	}
	defer s.gc.Schedule()
	if stored != "" && !ref.IsDangling(stored) {
		return s.deleteName(ctx, e, stored, force, prune, users)
	}
	return s.deleteImage(ctx, e, force, prune, users)
}

// deleteName removes one name, and the image if it was the last.
func (s *Service) deleteName(ctx context.Context, e *entry, stored string, force, prune bool, users func(digest.Digest) []string) ([]Deleted, error) {
	tags := slices.DeleteFunc(slices.Clone(e.names), func(n string) bool { t, _ := ref.Familiar(n); return t == "" })
	last := len(e.names) == 1 || len(tags) == 1 && tags[0] == stored
	if last && !force {
		if by := users(e.target.Digest); len(by) > 0 {
			return nil, fmt.Errorf("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s: %w",
				familiar(stored), short12(by[0]), short(e.target.Digest), errdefs.ErrFailedPrecondition)
		}
	}
	if last {
		return s.removeAll(ctx, e, prune, users)
	}
	if err := s.store.Images.Delete(store.Context(ctx), stored); err != nil {
		return nil, fmt.Errorf("untag %s: %w", familiar(stored), err)
	}
	return []Deleted{{Untagged: familiar(stored)}}, nil
}

// deleteImage removes an image that was named by its id.
func (s *Service) deleteImage(ctx context.Context, e *entry, force, prune bool, users func(digest.Digest) []string) ([]Deleted, error) {
	if !force {
		repos := map[string]bool{}
		for _, n := range e.names {
			if _, r := ref.Familiar(n); r != "" {
				repos[r] = true
			}
		}
		if len(repos) > 1 {
			return nil, fmt.Errorf("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories: %w", short(e.target.Digest), errdefs.ErrFailedPrecondition)
		}
		if by := users(e.target.Digest); len(by) > 0 {
			return nil, fmt.Errorf("conflict: unable to delete %s (must be forced) - image is being used by stopped container %s: %w", short(e.target.Digest), short12(by[0]), errdefs.ErrFailedPrecondition)
		}
	}
	return s.removeAll(ctx, e, prune, users)
}

// removeAll removes an image with all its names. The parents that it was
// committed from go with it if they have no name, no user and no other child.
func (s *Service) removeAll(ctx context.Context, e *entry, prune bool, users func(digest.Digest) []string) ([]Deleted, error) {
	if err := s.keepForRoots(ctx, e.target.Digest); err != nil {
		return nil, err
	}
	var out []Deleted
	for _, n := range e.names {
		if err := s.store.Images.Delete(store.Context(ctx), n); err != nil && !errdefs.IsNotFound(err) {
			return out, fmt.Errorf("delete image %s: %w", short(e.target.Digest), err)
		}
		if !ref.IsDangling(n) {
			out = append(out, Deleted{Untagged: familiar(n)})
		}
	}
	out = append(out, Deleted{Deleted: e.target.Digest.String()})
	if !prune || e.parent == "" {
		return out, nil
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return out, err
	}
	p := c.ids[e.parent]
	if p == nil || len(p.names) != 1 || !ref.IsDangling(p.names[0]) || len(users(e.parent)) > 0 || c.hasChild(e.parent) {
		return out, nil
	}
	more, err := s.removeAll(ctx, p, prune, users)
	return append(out, more...), err
}

func (c *catalog) hasChild(id digest.Digest) bool {
	return slices.ContainsFunc(c.order, func(e *entry) bool { return e.parent == id })
}

// familiar is a stored name as users know it, digests included.
func familiar(stored string) string {
	n, err := reference.ParseNormalizedNamed(stored)
	if err != nil {
		return stored
	}
	return reference.FamiliarString(n)
}

func short12(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

// Prune deletes the images that nothing uses: the dangling ones, or all with
// the filter dangling=false. It returns how many bytes that freed.
func (s *Service) Prune(ctx context.Context, filters map[string][]string, users func(digest.Digest) []string) ([]Deleted, uint64, error) {
	f := map[string][]string{}
	danglingOnly := true
	for k, vs := range filters {
		if _, ok := imageFilters[k]; !ok || k == "reference" {
			return nil, 0, fmt.Errorf("invalid filter '%s': %w", k, errdefs.ErrInvalidArgument)
		}
		if k != "dangling" {
			f[k] = vs
			continue
		}
		for _, v := range vs {
			if _, err := matchDangling(&Image{}, v); err != nil {
				return nil, 0, err
			}
			danglingOnly = v == "true" || v == "1"
		}
	}
	before, err := s.DiskUsage(ctx)
	if err != nil {
		return nil, 0, err
	}
	all, err := s.List(ctx, ListOptions{All: true, Filters: f})
	if err != nil {
		return nil, 0, err
	}
	var out []Deleted
	for _, img := range all {
		if danglingOnly && len(img.Names) > 0 || len(users(img.ID)) > 0 {
			continue
		}
		d, err := s.Delete(ctx, img.ID.String(), true, true, users)
		if errdefs.IsNotFound(err) {
			continue // it went as another's parent
		}
		if err != nil {
			return out, 0, err
		}
		out = append(out, d...)
	}
	if err := s.gc.Now(ctx); err != nil {
		return out, 0, err
	}
	after, err := s.DiskUsage(ctx)
	if err != nil {
		return out, 0, err
	}
	return out, uint64(max(before-after, 0)), nil
}

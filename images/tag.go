package images

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/patternmatcher"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images/ref"
)

// Tag gives an image one more name.
func (s *Service) Tag(ctx context.Context, src, dst string) error {
	name, err := ref.ParseTag(dst)
	if err != nil {
		return err
	}
	if _, err := s.Get(ctx, src, nil); err != nil && !errdefs.IsNotFound(err) {
		return err // loads a builtin; a missing platform does not matter here
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return err
	}
	e, _, err := s.find(ctx, c, src)
	if err != nil {
		return err
	}
	var labels map[string]string
	if e.parent != "" {
		labels = map[string]string{labelParent: e.parent.String()}
	}
	return s.record(ctx, name.String(), e.target, labels)
}

// imageFilter tells whether an image passes for one value of a filter.
type imageFilter func(img *Image, value string) (bool, error)

// filter is how the values of one key combine.
type filter struct {
	match imageFilter
	all   bool // every value must match, not just one
}

// imageFilters are the keys that List and Prune know.
var imageFilters = map[string]filter{
	"reference": {match: matchReference},
	"dangling":  {match: matchDangling},
	"label":     {match: matchLabel, all: true},
	"label!":    {match: func(i *Image, v string) (bool, error) { ok, err := matchLabel(i, v); return !ok, err }, all: true},
	"until":     {match: matchUntil, all: true},
}

func matchReference(img *Image, pattern string) (bool, error) {
	var all []string
	for _, n := range img.Names {
		repo, _, _ := cutTag(n)
		all = append(all, n, repo)
	}
	for _, n := range img.RepoDigests {
		repo, _, _ := strings.Cut(n, "@")
		all = append(all, n, repo)
	}
	for _, s := range all {
		ok, err := matchPath(pattern, s)
		if ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// matchPath is path.Match with ** as Docker's patterns have it.
func matchPath(pattern, s string) (bool, error) {
	ok, err := patternmatcher.MatchesOrParentMatches(s, []string{pattern})
	if err != nil {
		return false, fmt.Errorf("bad pattern %q: %w", pattern, errdefs.ErrInvalidArgument)
	}
	// A pattern of a parent directory is no match for a name.
	return ok && strings.Count(pattern, "/") >= strings.Count(s, "/") || pattern == s, nil
}

// cutTag splits a familiar name at its tag.
func cutTag(n string) (repo, tag string, ok bool) {
	i := strings.LastIndexByte(n, ':')
	if i < strings.LastIndexByte(n, '/') || i < 0 {
		return n, "", false
	}
	return n[:i], n[i+1:], true
}

func matchDangling(img *Image, v string) (bool, error) {
	want, ok := map[string]bool{"true": true, "1": true, "false": false, "0": false}[v]
	if !ok {
		return false, fmt.Errorf("invalid filter 'dangling=[%s]': %w", v, errdefs.ErrInvalidArgument)
	}
	return (len(img.Names) == 0) == want, nil
}

func matchLabel(img *Image, v string) (bool, error) {
	k, want, hasValue := strings.Cut(v, "=")
	got, ok := img.Config.Config.Labels[k]
	return ok && (!hasValue || got == want), nil
}

func matchUntil(img *Image, v string) (bool, error) {
	t, err := parseTime(v)
	return err == nil && img.Created.Before(t), err
}

// parseTime reads a moment as Docker's filters have it: a Go duration back
// from now, Unix seconds, or RFC 3339 in several lengths.
func parseTime(v string) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return time.Now().Add(-d), nil
	}
	var sec, nsec int64
	if n, err := fmt.Sscanf(v+" ", "%d.%d ", &sec, &nsec); n >= 1 && (err == nil || !strings.Contains(v, "-")) {
		return time.Unix(sec, nsec), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("failed to parse time %q: want a duration such as 24h, a Unix time or RFC 3339: %w", v, errdefs.ErrInvalidArgument)
}

// passes tells whether an image passes all filters.
func passes(img *Image, filters map[string][]string) (bool, error) {
	for k, values := range filters {
		f := imageFilters[k]
		if len(values) == 0 {
			continue
		}
		n := 0
		for _, v := range values {
			ok, err := f.match(img, v)
			if err != nil {
				return false, err
			}
			if ok {
				n++
			}
		}
		if n == 0 || f.all && n < len(values) {
			return false, nil
		}
	}
	return true, nil
}

// List returns the images that pass the filters, newest first. A damaged one
// is left out, with a warning.
func (s *Service) List(ctx context.Context, o ListOptions) ([]*Image, error) {
	filters := map[string][]string{}
	var before, since []time.Time
	for k, vs := range o.Filters {
		switch _, known := imageFilters[k]; {
		case known:
			filters[k] = vs
		case k == "before" || k == "since":
			for _, v := range vs {
				img, err := s.Get(ctx, v, nil)
				if err != nil {
					return nil, err
				}
				if k == "before" {
					before = append(before, img.Created)
				} else {
					since = append(since, img.Created)
				}
			}
		default:
			return nil, fmt.Errorf("invalid filter '%s': %w", k, errdefs.ErrInvalidArgument)
		}
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	var out []*Image
	for _, e := range c.order {
		img, err := s.seen(ctx, c, e)
		if err != nil {
			s.log.Warn("image left out of the list", "id", e.target.Digest, "error", err)
			continue
		}
		ok, err := passes(img, filters)
		if err != nil {
			return nil, err
		}
		ok = ok && !slices.ContainsFunc(before, func(t time.Time) bool { return !img.Created.Before(t) })
		ok = ok && !slices.ContainsFunc(since, func(t time.Time) bool { return !img.Created.After(t) })
		if ok {
			out = append(out, img)
		}
	}
	slices.SortStableFunc(out, func(a, b *Image) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// seen is an entry through the host's platform, remembered.
func (s *Service) seen(ctx context.Context, c *catalog, e *entry) (*Image, error) {
	key := memoKey{ref: e.target.Digest.String()}
	if v, ok := c.memo.Load(key); ok {
		return v.(*Image), nil
	}
	img, err := s.image(ctx, e, nil, e.target.Digest.String())
	if err == nil && c.memos.Add(1) <= maxMemo {
		c.memo.Store(key, img)
	}
	return img, err
}

// History tells the steps that an image was made in, newest first.
func (s *Service) History(ctx context.Context, text string, platform *ocispec.Platform) ([]HistoryEntry, error) {
	img, err := s.Get(ctx, text, platform)
	if err != nil {
		return nil, err
	}
	out := make([]HistoryEntry, 0, len(img.Config.History))
	chains := chainIDs(img.Config.RootFS.DiffIDs)
	layer := 0
	for _, h := range img.Config.History {
		e := HistoryEntry{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			e.Created = *h.Created
		}
		if !h.EmptyLayer && layer < len(chains) {
			e.Size, _ = s.chainSize(ctx, chains[layer])
			layer++
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		out = append(out, HistoryEntry{Created: img.Created, Size: img.LayerSize})
	}
	slices.Reverse(out)
	out[0].ID, out[0].Tags = img.ID.String(), img.Names
	return out, nil
}

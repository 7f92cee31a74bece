package images

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images/ref"
	"github.com/caisson-engine/caisson/images/store"
)

// Labels of image records.
const (
	labelOwner   = "caisson.image.owner"
	labelParent  = "caisson.image.parent"
	labelBuiltin = "caisson.image.builtin"
	labelTagged  = "caisson.image.tagged" // RFC 3339
	labelPulled  = "caisson.image.pulled" // its registry gave it this name
)

// maxMemo bounds the answers that a catalog remembers.
const maxMemo = 4096

// catalog is the image records as they were at one moment, in memory. Any
// change of the database makes the next reader build a new one.
type catalog struct {
	gen   uint64
	names map[string]*entry // by stored name
	ids   map[digest.Digest]*entry
	order []*entry // by id
	memo  sync.Map // memoKey to *Image
	memos atomic.Int32
}

// entry is one image: all records with the same target.
type entry struct {
	target  ocispec.Descriptor
	names   []string // stored names, sorted
	proven  []string // those that do not rest on a client's word, sorted
	owner   string
	parent  digest.Digest
	builtin bool
	tagged  time.Time
}

type memoKey struct{ ref, platform string }

// catalog returns the current one.
func (s *Service) catalog(ctx context.Context) (*catalog, error) {
	if c := s.cat.Load(); c != nil && c.gen == s.gen.Load() {
		return c, nil
	}
	s.catMu.Lock()
	defer s.catMu.Unlock()
	gen := s.gen.Load()
	if c := s.cat.Load(); c != nil && c.gen == gen {
		return c, nil
	}
	records, err := s.store.Images.List(store.Context(ctx))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	c := &catalog{gen: gen, names: map[string]*entry{}, ids: map[digest.Digest]*entry{}}
	for _, r := range records {
		e := c.ids[r.Target.Digest]
		if e == nil {
			e = &entry{target: r.Target}
			c.ids[r.Target.Digest] = e
			c.order = append(c.order, e)
		}
		c.names[r.Name] = e
		e.names = append(e.names, r.Name)
		if r.Labels[labelPulled] != "" || r.Labels[labelBuiltin] != "" {
			e.proven = append(e.proven, r.Name)
		}
		e.owner = cmp.Or(e.owner, r.Labels[labelOwner])
		e.parent = cmp.Or(e.parent, digest.Digest(r.Labels[labelParent]))
		e.builtin = e.builtin || r.Labels[labelBuiltin] != ""
		if t, err := time.Parse(time.RFC3339Nano, r.Labels[labelTagged]); err == nil && t.After(e.tagged) {
			e.tagged = t
		}
	}
	for _, e := range c.order {
		slices.Sort(e.names)
		slices.Sort(e.proven)
	}
	slices.SortFunc(c.order, func(a, b *entry) int { return cmp.Compare(a.target.Digest, b.target.Digest) })
	s.cat.Store(c)
	return c, nil
}

// find resolves what a user typed: an id, a name, a name with a digest, or the
// start of an id. stored is the record that was meant, "" for an id.
func (s *Service) find(ctx context.Context, c *catalog, text string) (e *entry, stored string, err error) {
	if ref.IsFullID(text) {
		id := digest.NewDigestFromEncoded(digest.SHA256, ref.IDPrefix(text))
		if e := c.ids[id]; e != nil {
			return e, "", nil
		}
		return s.byPrefix(ctx, c, text)
	}
	n, err := ref.Parse(text)
	if err != nil {
		if ref.IDPrefix(text) != "" {
			return s.byPrefix(ctx, c, text)
		}
		return nil, "", err
	}
	if e := c.names[n.String()]; e != nil {
		return e, n.String(), nil
	}
	if d, ok := n.(reference.Digested); ok {
		if e := c.ids[d.Digest()]; e != nil && slices.ContainsFunc(e.names, func(s string) bool {
			return strings.HasPrefix(s, n.Name()+":") || strings.HasPrefix(s, n.Name()+"@")
		}) {
			return e, "", nil
		}
		return nil, "", noSuchImage(text)
	}
	if ref.IDPrefix(text) != "" {
		return s.byPrefix(ctx, c, text)
	}
	return nil, "", noSuchImage(reference.FamiliarString(n))
}

func noSuchImage(name string) error {
	return fmt.Errorf("No such image: %s: %w", name, errdefs.ErrNotFound) //nolint:staticcheck // Docker's words
}

// byPrefix finds an image by the start of its id or of a config's digest,
// which is what other engines call its id.
func (s *Service) byPrefix(ctx context.Context, c *catalog, text string) (*entry, string, error) {
	p := ref.IDPrefix(text)
	want := "sha256:" + p
	i := sort.Search(len(c.order), func(i int) bool { return string(c.order[i].target.Digest) >= want })
	var found []*entry
	for ; i < len(c.order) && strings.HasPrefix(string(c.order[i].target.Digest), want); i++ {
		found = append(found, c.order[i])
	}
	if len(found) == 0 {
		for _, e := range c.order {
			vs, err := s.variants(ctx, e.target)
			if err != nil {
				continue
			}
			if slices.ContainsFunc(vs, func(v variant) bool {
				return v.manifest != nil && strings.HasPrefix(string(v.manifest.Config.Digest), want) ||
					strings.HasPrefix(string(v.desc.Digest), want)
			}) {
				found = append(found, e)
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, "", noSuchImage(text)
	case 1:
		return found[0], "", nil
	}
	return nil, "", fmt.Errorf("multiple IDs found with provided prefix: %s: %w", text, errdefs.ErrInvalidArgument)
}

// Get finds an image by name, id or start of an id. A nil platform is the
// host's, or another that is here if that is not. The image is shared: not to
// be changed. NotFound says which of image and platform is missing.
func (s *Service) Get(ctx context.Context, text string, platform *ocispec.Platform) (*Image, error) {
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	key := memoKey{ref: text}
	if platform != nil {
		key.platform = platforms.FormatAll(*platform)
	}
	if v, ok := c.memo.Load(key); ok {
		return v.(*Image), nil
	}
	if loaded, err := s.loadBuiltin(ctx, c, text); err != nil {
		return nil, err
	} else if loaded {
		if c, err = s.catalog(ctx); err != nil {
			return nil, err
		}
	}
	e, _, err := s.find(ctx, c, text)
	if err != nil {
		return nil, err
	}
	img, err := s.image(ctx, e, platform, text)
	if err != nil {
		return nil, err
	}
	if c.memos.Add(1) <= maxMemo {
		c.memo.Store(key, img)
	}
	return img, nil
}

// image sees an entry through a platform.
func (s *Service) image(ctx context.Context, e *entry, platform *ocispec.Platform, text string) (*Image, error) {
	vs, err := s.variants(ctx, e.target)
	if err != nil {
		return nil, err
	}
	img := &Image{
		ID: e.target.Digest, Owner: e.owner, Target: e.target, Parent: e.parent, LastTagged: e.tagged, Proven: e.proven,
	}
	for _, n := range e.names {
		tag, repo := ref.Familiar(n)
		if tag != "" {
			img.Names = append(img.Names, tag)
		}
		if repo != "" {
			img.RepoDigests = append(img.RepoDigests, repo+"@"+e.target.Digest.String())
		}
	}
	slices.Sort(img.Names)
	slices.Sort(img.RepoDigests)
	img.RepoDigests = slices.Compact(img.RepoDigests)

	sizes := make([]usage, len(vs))
	for i := range vs {
		sizes[i] = s.usage(ctx, &vs[i])
		img.Platforms = append(img.Platforms, Platform{
			Descriptor: vs[i].desc, Platform: vs[i].platform(), Available: sizes[i].available, Size: sizes[i].blobs + sizes[i].layers,
		})
		img.Size += sizes[i].blobs + sizes[i].layers
	}
	i := s.choose(vs, sizes, platform)
	if i < 0 {
		p := s.platform
		if platform != nil {
			p = *platform
		}
		return nil, fmt.Errorf("image with reference %s was found but does not provide the specified platform (%s): %w", text, platforms.FormatAll(p), errdefs.ErrNotFound)
	}
	v := &vs[i]
	img.Manifest, img.ConfigDesc, img.Config = v.desc, v.manifest.Config, *v.config
	if v.config.Created != nil {
		img.Created = *v.config.Created
	}
	img.LayerSize, img.Unpacked = sizes[i].layers, sizes[i].unpacked
	img.ChainID = identity.ChainID(slices.Clone(v.config.RootFS.DiffIDs))
	return img, nil
}

// choose picks the variant for a platform, -1 if none can be used. Without a
// platform the host's wins, then any that is here.
func (s *Service) choose(vs []variant, sizes []usage, platform *ocispec.Platform) int {
	p := s.platform
	if platform != nil {
		p = *platform
	}
	m := platforms.Only(p)
	best := -1
	for i := range vs {
		if vs[i].config == nil || !m.Match(vs[i].platform()) {
			continue
		}
		if best < 0 || sizes[i].available && !sizes[best].available || m.Less(vs[i].platform(), vs[best].platform()) {
			best = i
		}
	}
	if best >= 0 || platform != nil {
		return best
	}
	for i := range vs {
		if vs[i].config != nil && (best < 0 || sizes[i].available && !sizes[best].available) {
			best = i
		}
	}
	return best
}

// usage is what one variant takes on disk, bytes.
type usage struct {
	blobs, layers       int64
	available, unpacked bool
}

func (s *Service) usage(ctx context.Context, v *variant) usage {
	if v.manifest == nil || v.config == nil {
		return usage{}
	}
	u := usage{available: true, unpacked: true, blobs: v.desc.Size + v.manifest.Config.Size}
	for _, l := range v.manifest.Layers {
		if s.store.Has(ctx, l.Digest) {
			u.blobs += l.Size
		} else {
			u.available = false
		}
	}
	for _, chain := range identity.ChainIDs(slices.Clone(v.config.RootFS.DiffIDs)) {
		n, ok := s.chainSize(ctx, chain)
		if !ok {
			u.unpacked = false
			break
		}
		u.layers += n
	}
	return u
}

// chainSize is the size of the topmost layer of a chain.
func (s *Service) chainSize(ctx context.Context, chain digest.Digest) (int64, bool) {
	size, gen, ok := s.sizes.load(chain)
	if ok {
		return size, true
	}
	u, err := s.store.Snapshots.Usage(store.Context(ctx), chain.String())
	if err != nil {
		return 0, false
	}
	s.sizes.store(chain, u.Size, gen)
	return u.Size, true
}

// chainIDs are the ids of all the chains of an image, the base layer's first.
func chainIDs(diffIDs []digest.Digest) []digest.Digest {
	return identity.ChainIDs(slices.Clone(diffIDs))
}

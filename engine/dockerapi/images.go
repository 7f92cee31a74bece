package dockerapi

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/images"
)

// imageRef joins an image's name with a tag parameter, which may be a digest.
func imageRef(name, tag string) string {
	switch {
	case tag == "":
		return name
	case strings.Contains(tag, ":"):
		return name + "@" + tag
	}
	return name + ":" + tag
}

// imageCreate pulls an image, or makes one of a tar of a root filesystem.
func (c *call) imageCreate() error {
	platform, err := parsePlatform(c.form("platform"))
	if err != nil {
		return err
	}
	name := c.form("fromImage")
	if name == "" {
		return c.imageImport(platform)
	}
	auth, err := c.registryAuth()
	if err != nil {
		return err
	}
	o := images.PullOptions{Ref: imageRef(name, c.form("tag")), Platform: platform, Auth: auth}
	// Without a tag in either place Docker pulls all of them.
	base := name[strings.LastIndexByte(name, '/')+1:]
	o.AllTags = c.form("tag") == "" && !strings.ContainsAny(base, ":@")
	p := c.progress()
	if _, err = c.images.Pull(c.ctx(), o, p.update); err == nil {
		c.eng.EmitImage(c.ctx(), events.ActionPull, o.Ref, o.Ref)
	}
	return p.finish(err)
}

// imageImport reads the root filesystem from the body: the daemon fetches
// nothing from addresses that a client names.
func (c *call) imageImport(platform *ocispec.Platform) error {
	if src := c.form("fromSrc"); src != "-" {
		return unsupported("importing from %q is not supported: download it and import it from standard input, fromSrc=-", src)
	}
	o := images.ImportOptions{Message: c.form("message"), Platform: platform}
	if repo := c.form("repo"); repo != "" {
		o.Ref = imageRef(repo, c.form("tag"))
	}
	if changes := c.query["changes"]; len(changes) > 0 {
		o.Config = &images.RunConfig{}
		if err := engine.ApplyChanges(o.Config, changes); err != nil {
			return err
		}
	}
	p := c.progress()
	img, err := c.images.Import(c.ctx(), c.r.Body, o)
	if err == nil {
		c.eng.EmitImage(c.ctx(), events.ActionImport, img.ID.String(), o.Ref)
		p.update(images.Update{Status: img.ID.String()})
	}
	return p.finish(err)
}

func (c *call) imagePush() error {
	auth, err := c.registryAuth()
	if err != nil {
		return err
	}
	platform, err := parsePlatform(c.form("platform"))
	if err != nil {
		return err
	}
	refs := []string{imageRef(c.name, c.form("tag"))}
	if c.form("tag") == "" {
		if refs, err = c.allTags(c.name); err != nil {
			return err
		}
	}
	p := c.progress()
	for _, ref := range refs {
		if err := c.images.Push(c.ctx(), images.PushOptions{Ref: ref, Platform: platform, Auth: auth}, p.update); err != nil {
			return p.finish(err)
		}
		c.eng.EmitImage(c.ctx(), events.ActionPush, ref, ref)
	}
	return p.finish(nil)
}

// allTags lists the stored names of a repository.
func (c *call) allTags(repo string) ([]string, error) {
	if _, err := reference.ParseNormalizedNamed(repo); err != nil {
		return nil, invalid("%s", err)
	}
	list, err := c.images.List(c.ctx(), images.ListOptions{Filters: Filters{"reference": {repo + ":*"}}})
	if err != nil {
		return nil, err
	}
	familiar := strings.TrimPrefix(strings.TrimPrefix(repo, "docker.io/"), "library/")
	var out []string
	for _, img := range list {
		for _, n := range img.Names {
			if strings.HasPrefix(n, familiar+":") {
				out = append(out, n)
			}
		}
	}
	if len(out) == 0 {
		return nil, &kindError{"An image does not exist locally with the tag: " + familiar, errdefs.ErrNotFound}
	}
	slices.Sort(out)
	return out, nil
}

func (c *call) imageLoad() error {
	platform, err := c.onePlatform()
	if err != nil {
		return err
	}
	p := c.progress()
	report := p.update
	if c.flag("quiet") {
		report = func(images.Update) {}
	}
	loaded, err := c.images.Load(c.ctx(), c.r.Body, platform, report)
	if err != nil {
		return p.finish(err)
	}
	for _, l := range loaded {
		c.eng.EmitImage(c.ctx(), events.ActionLoad, l.ID.String(), l.Name)
		line := "Loaded image: " + l.Name
		if l.Name == "" {
			line = "Loaded image ID: " + l.ID.String()
		}
		p.send(map[string]string{"stream": line + "\n"})
	}
	return p.finish(nil)
}

// onePlatform is the platform parameter where the API allows several: it may be
// repeated or, since 1.52, be a JSON list.
func (c *call) onePlatform() (*ocispec.Platform, error) {
	vals := c.query["platform"]
	if len(vals) == 1 && strings.HasPrefix(vals[0], "[") {
		var list []json.RawMessage
		if err := json.Unmarshal([]byte(vals[0]), &list); err != nil {
			return nil, invalid("invalid platform: %v", err)
		}
		vals = vals[:0:0]
		for _, v := range list {
			vals = append(vals, string(v))
		}
	}
	if len(vals) > 1 {
		return nil, unsupported("choosing several platforms is not supported: choose one, or none for all")
	}
	if len(vals) == 0 {
		return nil, nil
	}
	return parsePlatform(vals[0])
}

func (c *call) save(refs []string) error {
	platform, err := c.onePlatform()
	if err != nil {
		return err
	}
	if len(refs) == 0 {
		return invalid("no images to save: name at least one")
	}
	out := &lazy{c: c, kind: "application/x-tar"}
	err = c.images.Save(c.ctx(), refs, platform, out)
	if err == nil {
		for _, ref := range refs {
			c.eng.EmitImage(c.ctx(), events.ActionSave, ref, ref)
		}
	}
	return out.finish(err)
}

func (c *call) imageSave() error { return c.save([]string{c.name}) }

func (c *call) imageSaveMany() error { return c.save(c.query["names"]) }

func (c *call) imageTag() error {
	repo := c.form("repo")
	if repo == "" {
		return invalid("missing parameter: repo")
	}
	ref := imageRef(repo, c.form("tag"))
	if err := c.images.Tag(c.ctx(), c.name, ref); err != nil {
		return err
	}
	if img, err := c.images.Get(c.ctx(), ref, nil); err == nil {
		c.eng.EmitImage(c.ctx(), events.ActionTag, img.ID.String(), ref)
	}
	return c.status(http.StatusCreated)
}

func (c *call) imageDelete() error {
	if len(c.query["platforms"]) > 0 {
		return unsupported("deleting single platforms of an image is not supported: delete the image")
	}
	out, err := c.eng.ImageRemove(c.ctx(), c.name, c.flag("force"), !c.flag("noprune"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, deleted(out))
}

func deleted(list []images.Deleted) []image.DeleteResponse {
	out := make([]image.DeleteResponse, len(list))
	for i, d := range list {
		out[i] = image.DeleteResponse{Untagged: d.Untagged, Deleted: d.Deleted}
	}
	return out
}

func (c *call) imagePrune() error {
	f, err := c.filters(imagePruneFilters)
	if err != nil {
		return err
	}
	out, freed, err := c.eng.ImagePrune(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, image.PruneReport{ImagesDeleted: deleted(out), SpaceReclaimed: freed})
}

func (c *call) imageHistory() error {
	platform, err := parsePlatform(c.form("platform"))
	if err != nil {
		return err
	}
	h, err := c.images.History(c.ctx(), c.name, platform)
	if err != nil {
		return err
	}
	out := make([]image.HistoryResponseItem, len(h))
	for i, e := range h {
		out[i] = image.HistoryResponseItem{
			ID: e.ID, Created: e.Created.Unix(), CreatedBy: e.CreatedBy, Tags: e.Tags, Size: e.Size, Comment: e.Comment,
		}
	}
	return c.json(http.StatusOK, out)
}

func (c *call) imageSearch() error {
	f, err := c.filters(searchFilters)
	if err != nil {
		return err
	}
	limit, err := c.number("limit", 25)
	if err != nil {
		return err
	}
	if limit < 1 || limit > 100 {
		return invalid("Limit %d is outside the range of [1, 100]", limit)
	}
	keep, err := searchFilter(f)
	if err != nil {
		return err
	}
	auth, err := c.registryAuth()
	if err != nil {
		return err
	}
	hits, err := c.images.Search(c.ctx(), c.form("term"), limit, auth)
	if err != nil {
		return err
	}
	out := []registry.SearchResult{}
	for _, h := range hits {
		if keep(h) {
			out = append(out, registry.SearchResult{
				Name: h.Name, Description: h.Description, StarCount: h.Stars, IsOfficial: h.Official,
			})
		}
	}
	return c.json(http.StatusOK, out)
}

func searchFilter(f Filters) (func(images.SearchResult) bool, error) {
	stars := 0
	want := map[string]*bool{"is-official": nil, "is-automated": nil}
	for k := range want {
		if len(f[k]) == 0 {
			continue
		}
		b, err := strconv.ParseBool(f[k][0])
		if err != nil {
			return nil, invalid("invalid filter '%s=%s'", k, f[k][0])
		}
		want[k] = &b
	}
	for _, v := range f["stars"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, invalid("invalid filter 'stars=%s'", v)
		}
		stars = max(stars, n)
	}
	is := func(k string, v bool) bool { return want[k] == nil || *want[k] == v }
	return func(r images.SearchResult) bool {
		return r.Stars >= stars && is("is-official", r.Official) && is("is-automated", r.Automated)
	}, nil
}

func (c *call) imageList() error {
	f, err := c.filters(imageFilters)
	if err != nil {
		return err
	}
	list, err := c.images.List(c.ctx(), images.ListOptions{All: c.flag("all"), Filters: f})
	if err != nil {
		return err
	}
	v := imageView{shared: c.flag("shared-size"), manifests: c.version >= 47 && c.flag("manifests")}
	if c.version >= 51 {
		v.users = c.eng.ImageUsers(c.ctx())
	}
	if v.manifests {
		if v.manifestUsers, err = c.manifestUsers(c.ctx()); err != nil {
			return err
		}
	}
	return c.json(http.StatusOK, c.imageSummaries(list, v))
}

// manifestUsers lists the containers of each platform's manifest.
func (c *call) manifestUsers(ctx context.Context) (map[string][]string, error) {
	list, err := c.eng.List(ctx, true, false, 0, nil)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]string)
	for _, s := range list {
		if d := s.ImageManifestDescriptor; d != nil {
			out[d.Digest.String()] = append(out[d.Digest.String()], s.ID)
		}
	}
	return out, nil
}

func (c *call) imageInspect() error {
	platform, err := parsePlatform(c.form("platform"))
	if err != nil {
		return err
	}
	manifests := c.version >= 48 && c.flag("manifests")
	if manifests && platform != nil {
		return invalid("conflicting options: manifests and platform options cannot both be set")
	}
	img, err := c.images.Get(c.ctx(), c.name, platform)
	if err != nil {
		return err
	}
	v := imageView{}
	if manifests {
		v.manifests = true
		if v.manifestUsers, err = c.manifestUsers(c.ctx()); err != nil {
			return err
		}
	}
	return c.json(http.StatusOK, c.imageShape(img, v))
}

package dockerapi

import (
	"net/netip"
	"slices"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/images"
)

// This file gives answers the shape that a client's API version has. The types
// of the newest version are the base; what they dropped is added by wrapping.

// oldNetwork is what NetworkSettings had at its top level until 1.51: the
// default network's endpoint.
type oldNetwork struct {
	*container.NetworkSettings
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	EndpointID             string
	Gateway                netip.Addr
	GlobalIPv6Address      netip.Addr
	GlobalIPv6PrefixLen    int
	IPAddress              netip.Addr
	IPPrefixLen            int
	IPv6Gateway            netip.Addr
	MacAddress             network.HardwareAddr
}

func (c *call) containerShape(r container.InspectResponse) any {
	if c.version >= 52 || r.NetworkSettings == nil {
		return r
	}
	n := oldNetwork{NetworkSettings: r.NetworkSettings}
	if ep := r.NetworkSettings.Networks[network.NetworkBridge]; ep != nil {
		n.EndpointID, n.Gateway, n.IPAddress, n.IPPrefixLen = ep.EndpointID, ep.Gateway, ep.IPAddress, ep.IPPrefixLen
		n.IPv6Gateway, n.GlobalIPv6Address, n.GlobalIPv6PrefixLen = ep.IPv6Gateway, ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen
		n.MacAddress = ep.MacAddress
	}
	return struct {
		container.InspectResponse
		NetworkSettings oldNetwork
	}{r, n}
}

// imageView says what an image is shown with, beyond what is free to tell.
type imageView struct {
	users         map[string]int // containers per image id; nil: not counted
	shared        bool           // compute what images share
	manifests     bool
	manifestUsers map[string][]string // container ids per manifest digest
}

// imageSummary is an entry of the image list. VirtualSize is what clients
// before 1.44 read.
type imageSummary struct {
	image.Summary
	VirtualSize int64 `json:",omitempty"`
}

// notCounted is the API's word for a number that was not asked for.
const notCounted = -1

func (c *call) imageSummaries(list []*images.Image, v imageView) []imageSummary {
	var shared map[digest.Digest]int64
	if v.shared {
		shared = c.sharedSizes(list)
	}
	out := make([]imageSummary, len(list))
	for i, img := range list {
		s := image.Summary{
			ID:          img.ID.String(),
			ParentID:    img.Parent.String(),
			RepoTags:    orEmpty(img.Names),
			RepoDigests: orEmpty(img.RepoDigests),
			Created:     seconds(img.Created),
			Size:        img.Size,
			SharedSize:  notCounted,
			Containers:  notCounted,
			Labels:      img.Config.Config.Labels,
		}
		if v.users != nil {
			s.Containers = int64(v.users[s.ID])
		}
		if v.shared {
			s.SharedSize = shared[img.ID]
		}
		if c.version >= 48 {
			target := img.Target
			s.Descriptor = &target
		}
		if v.manifests {
			s.Manifests = manifestSummaries(img, v.manifestUsers)
		}
		out[i] = imageSummary{Summary: s}
		if c.version < 44 {
			out[i].VirtualSize = img.Size
		}
	}
	return out
}

// sharedSizes computes for each image the size of those of its layers that
// another image in the list has too.
func (c *call) sharedSizes(list []*images.Image) map[digest.Digest]int64 {
	type layer struct {
		chain digest.Digest
		size  int64
	}
	layers := make(map[digest.Digest][]layer, len(list))
	count := make(map[digest.Digest]int)
	for _, img := range list {
		sizes := c.layerSizes(img)
		chains := identity.ChainIDs(slices.Clone(img.Config.RootFS.DiffIDs))
		for i := range min(len(chains), len(sizes)) {
			layers[img.ID] = append(layers[img.ID], layer{chains[i], sizes[i]})
			count[chains[i]]++
		}
	}
	out := make(map[digest.Digest]int64, len(list))
	for id, ls := range layers {
		for _, l := range ls {
			if count[l.chain] > 1 {
				out[id] += l.size
			}
		}
	}
	return out
}

// layerSizes lists the sizes of an image's layers, from the lowest. An image
// whose history cannot be read shares nothing that is known.
func (c *call) layerSizes(img *images.Image) []int64 {
	h, err := c.images.History(c.ctx(), img.ID.String(), &img.Config.Platform)
	if err != nil || len(h) != len(img.Config.History) {
		return nil
	}
	var out []int64
	for i, e := range img.Config.History {
		if !e.EmptyLayer {
			out = append(out, h[len(h)-1-i].Size) // newest first
		}
	}
	return out
}

// attestationRef is the annotation by which an index entry says that it
// describes another one.
const (
	attestationType = "vnd.docker.reference.type"
	attestationRef  = "vnd.docker.reference.digest"
)

func manifestSummaries(img *images.Image, users map[string][]string) []image.ManifestSummary {
	out := make([]image.ManifestSummary, len(img.Platforms))
	for i, p := range img.Platforms {
		m := &out[i]
		m.ID, m.Descriptor, m.Available = p.Descriptor.Digest.String(), p.Descriptor, p.Available
		m.Size.Content, m.Size.Total = p.Size, p.Size
		if p.Descriptor.Annotations[attestationType] == "attestation-manifest" {
			m.Kind = image.ManifestKindAttestation
			m.AttestationData = &image.AttestationProperties{For: digest.Digest(p.Descriptor.Annotations[attestationRef])}
			continue
		}
		m.Kind = image.ManifestKindImage
		m.ImageData = &image.ImageProperties{Platform: p.Platform, Containers: orEmpty(users[m.ID])}
		if p.Descriptor.Digest == img.Manifest.Digest {
			m.ImageData.Size.Unpacked = img.LayerSize
			m.Size.Total += img.LayerSize
		}
	}
	return out
}

// oldImageConfig has the keys that an image's config always had until 1.51,
// and until 1.49 those of a container's config, which are never set.
type oldImageConfig struct {
	*dockerspec.DockerOCIImageConfig
	User       string
	Env        []string
	Entrypoint []string
	Cmd        []string
	Volumes    map[string]struct{}
	WorkingDir string
	Labels     map[string]string
	OnBuild    []string
	*containerOnly
}

type containerOnly struct {
	Hostname     string
	Domainname   string
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	Tty          bool
	OpenStdin    bool
	StdinOnce    bool
	Image        string
}

func (c *call) imageShape(img *images.Image, v imageView) any {
	ic := img.Config.Config
	conf := &dockerspec.DockerOCIImageConfig{ImageConfig: ic.ImageConfig}
	conf.OnBuild, conf.Shell = ic.OnBuild, ic.Shell
	if h := ic.Healthcheck; h != nil {
		conf.Healthcheck = &dockerspec.HealthcheckConfig{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout,
			StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
		}
	}
	r := image.InspectResponse{
		ID:           img.ID.String(),
		RepoTags:     orEmpty(img.Names),
		RepoDigests:  orEmpty(img.RepoDigests),
		Comment:      img.Config.Comment,
		Author:       img.Config.Author,
		Config:       conf,
		Architecture: img.Config.Architecture,
		Variant:      img.Config.Variant,
		Os:           img.Config.OS,
		OsVersion:    img.Config.OSVersion,
		Size:         img.Size,
		RootFS:       image.RootFS{Type: img.Config.RootFS.Type},
		Metadata:     image.Metadata{LastTagTime: img.LastTagged},
	}
	if !img.Created.IsZero() {
		r.Created = img.Created.UTC().Format(time.RFC3339Nano)
	}
	for _, d := range img.Config.RootFS.DiffIDs {
		r.RootFS.Layers = append(r.RootFS.Layers, d.String())
	}
	if c.version >= 48 {
		target := img.Target
		r.Descriptor = &target
	}
	if v.manifests {
		r.Manifests = manifestSummaries(img, v.manifestUsers)
	}
	if c.version >= 52 {
		return r
	}
	old := struct {
		image.InspectResponse
		Config        oldImageConfig
		Parent        string
		Comment       string
		DockerVersion string
		Author        string
		GraphDriver   storage.DriverData
		VirtualSize   int64 `json:",omitempty"`
	}{
		InspectResponse: r,
		Config: oldImageConfig{
			DockerOCIImageConfig: conf,
			User:                 ic.User,
			Env:                  ic.Env,
			Entrypoint:           ic.Entrypoint,
			Cmd:                  ic.Cmd,
			Volumes:              ic.Volumes,
			WorkingDir:           ic.WorkingDir,
			Labels:               ic.Labels,
			OnBuild:              ic.OnBuild,
		},
		Parent:      img.Parent.String(),
		Comment:     r.Comment,
		Author:      r.Author,
		GraphDriver: storage.DriverData{Name: "overlayfs"},
	}
	if c.version < 50 {
		old.Config.containerOnly = &containerOnly{}
	}
	if c.version < 44 {
		old.VirtualSize = img.Size
	}
	return old
}

// diskUsage is the answer of system df in both forms.
type diskUsage struct {
	*system.DiskUsage
	*oldDiskUsage
}

type oldDiskUsage struct {
	LayersSize int64
	Images     []imageSummary
	Containers []container.Summary
	Volumes    []volume.Volume
	BuildCache []build.CacheRecord
}

func (d *diskUsage) fillOld(want map[string]bool, du engine.DiskUsage, imgs []imageSummary) {
	d.oldDiskUsage = &oldDiskUsage{Containers: orEmpty(du.Containers), Images: orEmpty(imgs), Volumes: orEmpty(du.Volumes), BuildCache: []build.CacheRecord{}}
	if want["image"] {
		d.LayersSize = du.LayersSize
	}
}

func (d *diskUsage) fillNew(want map[string]bool, verbose bool, du engine.DiskUsage, imgs []imageSummary) {
	d.DiskUsage = &system.DiskUsage{}
	if want["image"] {
		u := &image.DiskUsage{TotalCount: int64(len(imgs)), TotalSize: du.LayersSize, Reclaimable: du.LayersSize}
		for _, s := range imgs {
			if s.Containers > 0 {
				u.ActiveCount++
				u.Reclaimable -= s.Size - s.SharedSize
			}
			if verbose {
				u.Items = append(u.Items, s.Summary)
			}
		}
		u.Reclaimable = max(u.Reclaimable, 0)
		d.ImageUsage = u
	}
	if want["container"] {
		u := &container.DiskUsage{TotalCount: int64(len(du.Containers))}
		for _, s := range du.Containers {
			u.TotalSize += s.SizeRw
			if isActive(s.State) {
				u.ActiveCount++
			} else {
				u.Reclaimable += s.SizeRw
			}
		}
		if verbose {
			u.Items = du.Containers
		}
		d.ContainerUsage = u
	}
	if want["volume"] {
		d.VolumeUsage = volumeUsage(du.Volumes, verbose)
	}
	if want["build-cache"] {
		d.BuildCacheUsage = &build.DiskUsage{}
	}
}

func volumeUsage(list []volume.Volume, verbose bool) *volume.DiskUsage {
	u := &volume.DiskUsage{TotalCount: int64(len(list))}
	for _, v := range list {
		size := max(v.UsageData.Size, 0)
		u.TotalSize += size
		if v.UsageData.RefCount > 0 {
			u.ActiveCount++
		} else {
			u.Reclaimable += size
		}
	}
	if verbose {
		u.Items = list
	}
	return u
}

// orEmpty makes a nil list an empty one, which JSON tells apart and clients do not expect.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// seconds is a time as the API has it in lists; none is 0.
func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

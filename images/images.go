// Package images is the image service: it pulls, pushes, loads, saves, imports,
// commits, lists and deletes images, and gives a container its root filesystem.
// It is a thin layer over containerd's content store, metadata database and
// snapshotters, and knows nothing of containers. Everything that comes from a
// registry or an archive is hostile: bounded, digest-checked, resolved inside
// its root.
//
// An image's id is the digest of what its name points to: an index where the
// registry has one, else a manifest.
package images

import (
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one stored image, seen through one platform.
type Image struct {
	ID          digest.Digest
	Owner       string   // tenant, see engine/identity
	Names       []string // familiar name:tag, sorted; empty for a dangling image
	RepoDigests []string // familiar name@digest
	Proven      []string // full names that it was pulled by: its registry says so, not only a client
	Store       string   // whose store it is in, see package tenants; "" the host owner's
	Target      ocispec.Descriptor
	Manifest    ocispec.Descriptor // of the chosen platform
	ConfigDesc  ocispec.Descriptor
	Config      DockerConfig
	Created     time.Time
	Size        int64         // bytes on disk: blobs plus unpacked layers, shared parts counted in full
	LayerSize   int64         // unpacked layers only
	Parent      digest.Digest // image it was committed from here, "" otherwise
	LastTagged  time.Time
	ChainID     digest.Digest // of the topmost layer
	Unpacked    bool          // the platform's layers are ready to run
	Platforms   []Platform    // every platform of the target, present or not
}

// Platform is one entry of a multi-platform image.
type Platform struct {
	Descriptor ocispec.Descriptor
	Platform   ocispec.Platform
	Available  bool // all its blobs are here
	Size       int64
}

// DockerConfig is the image config with the keys that Docker adds to OCI's.
type DockerConfig struct {
	ocispec.Image
	Config    RunConfig `json:"config"`
	Comment   string    `json:"comment,omitempty"`
	OSFeature []string  `json:"os.features,omitempty"`
}

// RunConfig is the image config's "config" with Docker's additions.
type RunConfig struct {
	ocispec.ImageConfig
	Healthcheck *Healthcheck `json:"Healthcheck,omitempty"`
	OnBuild     []string     `json:"OnBuild,omitempty"`
	Shell       []string     `json:"Shell,omitempty"`
	Hostname    string       `json:"Hostname,omitempty"`
	Domainname  string       `json:"Domainname,omitempty"`
}

// Healthcheck is as in the Docker image spec; durations in nanoseconds.
type Healthcheck struct {
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// Auth is a registry credential. It is never logged.
type Auth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
	ServerAddress string `json:"serveraddress,omitempty"`
}

// String hides the secret parts.
func (Auth) String() string { return "registry credential" }

// PullOptions name what to pull. Ref is as a user types it.
type PullOptions struct {
	Ref      string
	Platform *ocispec.Platform // nil: the host's
	Auth     *Auth
	AllTags  bool
}

// PushOptions name what to push.
type PushOptions struct {
	Ref      string
	Platform *ocispec.Platform // nil: all that are here
	Auth     *Auth
}

// ImportOptions describe an image made from a bare root filesystem.
type ImportOptions struct {
	Ref      string // "" leaves it dangling
	Message  string
	Config   *RunConfig // nil: empty
	Platform *ocispec.Platform
}

// CommitOptions describe an image made from a base and one more layer.
type CommitOptions struct {
	Base      digest.Digest // "" for none
	Platform  *ocispec.Platform
	Ref       string
	Config    RunConfig
	Author    string
	Comment   string
	CreatedBy string
}

// ListOptions select images.
type ListOptions struct {
	All     bool
	Filters map[string][]string
}

// Update is one step of progress, in Docker's words: Status is "Pulling fs
// layer", "Downloading", "Verifying Checksum", "Download complete",
// "Extracting", "Pull complete", "Already exists", "Pushing", "Pushed", "Layer
// already exists", or a line of its own with ID "".
type Update struct {
	ID      string // layer, 12 hex digits
	Status  string
	Current int64 // bytes
	Total   int64 // bytes, 0: unknown
	// Aux is a result that the API sends as "aux": a pushed tag with its digest.
	Aux any
}

// Progress receives updates, in order, from one goroutine at a time. It must not block for long.
type Progress func(Update)

// Loaded is one image that Load stored.
type Loaded struct {
	Name string // "" if it came without a tag
	ID   digest.Digest
}

// Deleted is one line of an image deletion: exactly one field is set.
type Deleted struct {
	Untagged string
	Deleted  string
}

// HistoryEntry is one step of an image's history, newest first.
type HistoryEntry struct {
	ID        string // "<missing>" but for the image itself
	Created   time.Time
	CreatedBy string
	Tags      []string
	Size      int64
	Comment   string
}

// SearchResult is one hit of the registry's own search.
type SearchResult struct {
	Name        string
	Description string
	Stars       int
	Official    bool
	Automated   bool
}

// Mount is one step of assembling a root filesystem, in containerd's form: the
// backend carries it out, this package mounts nothing for a container.
type Mount struct {
	Type    string
	Source  string
	Target  string
	Options []string
}

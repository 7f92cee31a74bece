package engine

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/engine/volume"
	"github.com/caisson-engine/caisson/images"
)

// ImageService is what the engine needs of images; *images.Service is it.
type ImageService interface {
	Get(ctx context.Context, ref string, platform *ocispec.Platform) (*images.Image, error)
	// Prepare makes a writable root filesystem named key on top of the image,
	// unpacking it first where that was not done, and keeps the image's layers
	// until Release. It mounts nothing. AlreadyExists if key is taken.
	// confine, if not nil, is given the directories of the layer before anything
	// is in them.
	Prepare(ctx context.Context, key string, img *images.Image, confine func(dirs ...string) error) ([]images.Mount, error)
	// Mounts returns what Prepare returned.
	Mounts(ctx context.Context, key string) ([]images.Mount, error)
	// Release deletes the writable layer. Idempotent.
	Release(ctx context.Context, key string) error
	// Roots lists the keys of all writable layers, to collect what no record claims.
	Roots(ctx context.Context) ([]string, error)
	// RootUsage is the size of the writable layer in bytes.
	RootUsage(ctx context.Context, key string) (int64, error)
	Commit(ctx context.Context, o images.CommitOptions, layer io.Reader) (*images.Image, error)
	// Delete removes a name, or an image with all its names if force or if it
	// has one. users tells which containers need an image.
	Delete(ctx context.Context, ref string, force, prune bool, users func(digest.Digest) []string) ([]images.Deleted, error)
	Prune(ctx context.Context, filters map[string][]string, users func(digest.Digest) []string) ([]images.Deleted, uint64, error)
	List(ctx context.Context, o images.ListOptions) ([]*images.Image, error)
	// DiskUsage is the size in bytes of all blobs and unpacked layers, each counted once.
	DiskUsage(ctx context.Context) (int64, error)
}

// Disks is what the engine needs of the file system of the data root;
// *diskquota.FS is it on Linux.
type Disks interface {
	// Problem says why the kernel keeps no limits there; nil if it does. Then
	// only Measure works.
	Problem() error
	// Limit bounds what directories and all that will be made in them take
	// together, in bytes; 0 lifts the bound. It may be repeated.
	Limit(bytes int64, dirs ...string) error
	// Join puts directories under the limit of another one.
	Join(with string, dirs ...string) error
	// Used is what everything under the limit of a directory takes.
	Used(dir string) (int64, error)
	// Measure adds up what directories take, by looking at every file.
	Measure(ctx context.Context, dirs ...string) (int64, error)
}

// Mounts is what the engine needs of the host to mount what backends cannot find
// as a path; *volmount.Host is it on Linux.
type Mounts interface {
	// Mount mounts a device at a directory, made if it is not there. One that is
	// mounted already stays.
	Mount(dir string, d volume.Device) error
	// Part makes dir what is at a path inside root. Links are followed inside root
	// only, whatever is changed there meanwhile.
	Part(root, path, dir string) error
	// Unmount is the reverse of both, however often they were done. Idempotent.
	Unmount(dir string) error
	// Pack is a tar of what is in a directory; Unpack extracts one there, with
	// device nodes only if devices says so.
	Pack(dir string) (io.ReadCloser, error)
	Unpack(dir string, tar io.Reader, devices bool) error
}

// Network is what the engine needs of networks; *network.Manager is it.
type Network interface {
	Attach(ctx context.Context, r network.Request) (*network.Attachment, *network.Netns, error)
	// Release is idempotent.
	Release(ctx context.Context, a *network.Attachment) error
	// Restore makes the host match the live attachments and nothing else. locate
	// finds the namespace of a container that runs; "" if it cannot be entered.
	Restore(ctx context.Context, live []*network.Attachment, locate func(container string) string) error

	// NetworksFor lists what a tenant sees; "" is the host's owner, who sees all.
	NetworksFor(tenant string) []network.Network
	// Create makes a network; note stores it before anything is on the host. Load
	// tells of one that was made before the last start.
	Create(ctx context.Context, r network.CreateRequest, note func(network.Network) error) (network.Network, error)
	Load(n network.Network)
	// Remove takes one away that nobody is on; gone forgets it.
	Remove(ctx context.Context, id string, gone func() error) error
	// Connect and Disconnect change the networks of a container that runs, and
	// give its attachment as it is then; Rename gives it another name on them.
	Connect(ctx context.Context, r network.Request, id string) (*network.Attachment, error)
	Disconnect(ctx context.Context, container, id string) (*network.Attachment, error)
	Rename(ctx context.Context, container, was, name string) (*network.Attachment, error)

	// WriteFiles writes hostname, hosts and resolv.conf for a container into dir.
	WriteFiles(dir string, r network.Request, a *network.Attachment) error
	// RewriteFiles changes them where one attachment became another, and keeps
	// what the container itself wrote there.
	RewriteFiles(dir string, r network.Request, was, is *network.Attachment) error
	// Warnings name what this host lacks, a sentence each.
	Warnings() []string
}

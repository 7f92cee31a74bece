package dockerapi

import (
	"context"
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	api "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/logs"
	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/images"
)

// Filters are the API's ?filters=: for each key the accepted values.
type Filters = map[string][]string

// Engine is what the API needs of the engine; *engine.Engine is it. Every
// method takes the caller's identity from its context (package identity) and
// returns errors with a kind of containerd/errdefs. ref is a name, an id or an
// unambiguous id prefix.
type Engine interface {
	// Identify says what an authenticated client is here, or that it is nobody.
	Identify(id identity.Identity) (identity.Identity, error)
	// Explain tells what Create would do; as, unless nil, is who would ask.
	Explain(ctx context.Context, r engine.CreateRequest, as *identity.Identity) (engine.Explanation, error)
	// Violations lists containers that the policy would not allow any more.
	Violations(ctx context.Context) []engine.Violation

	Create(ctx context.Context, r engine.CreateRequest) (container.CreateResponse, error)
	Start(ctx context.Context, ref string) (alreadyRunning bool, err error)
	Stop(ctx context.Context, ref string, o engine.StopOptions) (alreadyStopped bool, err error)
	Restart(ctx context.Context, ref string, o engine.StopOptions) error
	Kill(ctx context.Context, ref, signal string) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Remove(ctx context.Context, ref string, o engine.RemoveOptions) error
	Rename(ctx context.Context, ref, name string) error
	Update(ctx context.Context, ref string, u container.UpdateConfig) (container.UpdateResponse, error)
	// Wait resolves ref and registers before it returns, so that a caller may
	// answer its client, start the container and miss nothing. The channel
	// gets one value, or is closed empty when ctx ends.
	Wait(ctx context.Context, ref string, c engine.WaitCondition) (<-chan engine.Exit, error)
	// Attach returns when the process has ended, the client detached or ctx ended.
	Attach(ctx context.Context, ref string, o engine.AttachOptions) error
	// Logs calls fn for each record in order. tty says the stream is raw.
	Logs(ctx context.Context, ref string, o engine.LogsOptions, ready func(tty bool) error, fn func(logs.Record) error) error
	Resize(ctx context.Context, ref string, rows, cols uint) error
	Top(ctx context.Context, ref, psArgs string) (container.TopResponse, error)
	Stats(ctx context.Context, ref string, oneShot bool) (container.StatsResponse, error)
	Inspect(ctx context.Context, ref string, size bool) (container.InspectResponse, error)
	List(ctx context.Context, all, size bool, limit int, f Filters) ([]container.Summary, error)
	PruneContainers(ctx context.Context, f Filters) (container.PruneReport, error)

	ExecCreate(ctx context.Context, ref string, c container.ExecCreateRequest) (id string, err error)
	ExecStart(ctx context.Context, id string, o engine.ExecStartOptions) error
	ExecInspect(ctx context.Context, id string) (container.ExecInspectResponse, error)
	ExecResize(ctx context.Context, id string, rows, cols uint) error

	StatPath(ctx context.Context, ref, path string) (container.PathStat, error)
	ReadArchive(ctx context.Context, ref, path string) (io.ReadCloser, container.PathStat, error)
	WriteArchive(ctx context.Context, ref, path string, noOverwriteDirNonDir, copyUIDGID bool, tar io.Reader) error
	Export(ctx context.Context, ref string) (io.ReadCloser, error)
	Changes(ctx context.Context, ref string) ([]container.FilesystemChange, error)
	Commit(ctx context.Context, ref string, r engine.CommitRequest) (imageID string, err error)

	Volumes(ctx context.Context, f Filters) ([]volume.Volume, error)
	CreateVolume(ctx context.Context, r volume.CreateRequest) (volume.Volume, error)
	InspectVolume(ctx context.Context, ref string) (volume.Volume, error)
	RemoveVolume(ctx context.Context, ref string, force bool) error
	PruneVolumes(ctx context.Context, f Filters) (volume.PruneReport, error)
	// ExportVolume is a tar of what is in a volume; ImportVolume fills an empty one.
	ExportVolume(ctx context.Context, ref string) (io.ReadCloser, error)
	ImportVolume(ctx context.Context, ref string, tar io.Reader) error

	Info(ctx context.Context) (system.Info, error)
	// Backends lists the discovered backends, also those that fail their probe.
	Backends(ctx context.Context) ([]engine.BackendStatus, error)
	DiskUsage(ctx context.Context) (engine.DiskUsage, error)
	// Events replays from since, follows until until (zero: for ever).
	Events(ctx context.Context, since, until time.Time, f Filters) (<-chan events.Message, error)
	// ImageRemove deletes an image unless a container needs it.
	ImageRemove(ctx context.Context, ref string, force, prune bool) ([]images.Deleted, error)
	ImagePrune(ctx context.Context, f Filters) ([]images.Deleted, uint64, error)
	// ImageUsers counts the containers of each image id.
	ImageUsers(ctx context.Context) map[string]int
	// EmitImage publishes what was done to an image, where the engine did not do it itself.
	EmitImage(ctx context.Context, action events.Action, id, name string)
}

// Images is what the API needs of the image service; *images.Service is it.
type Images interface {
	Pull(ctx context.Context, o images.PullOptions, p images.Progress) (*images.Image, error)
	Push(ctx context.Context, o images.PushOptions, p images.Progress) error
	Load(ctx context.Context, r io.Reader, platform *ocispec.Platform, p images.Progress) ([]images.Loaded, error)
	Save(ctx context.Context, refs []string, platform *ocispec.Platform, w io.Writer) error
	Import(ctx context.Context, r io.Reader, o images.ImportOptions) (*images.Image, error)
	Tag(ctx context.Context, src, dst string) error
	Get(ctx context.Context, ref string, platform *ocispec.Platform) (*images.Image, error)
	List(ctx context.Context, o images.ListOptions) ([]*images.Image, error)
	History(ctx context.Context, ref string, platform *ocispec.Platform) ([]images.HistoryEntry, error)
	Search(ctx context.Context, term string, limit int, auth *images.Auth) ([]images.SearchResult, error)
	Login(ctx context.Context, registry string, auth images.Auth) (identityToken string, err error)
}

// Networks is what the API needs of networks; *engine.Engine is it.
type Networks interface {
	// Networks lists those that the context's client sees; FindNetwork finds one.
	Networks(ctx context.Context) []network.Network
	FindNetwork(ctx context.Context, ref string) (network.Network, error)
	CreateNetwork(ctx context.Context, r network.CreateRequest) (id string, err error)
	RemoveNetwork(ctx context.Context, ref string) error
	PruneNetworks(ctx context.Context, f map[string][]string) (api.PruneReport, error)
	ConnectNetwork(ctx context.Context, ref, container string, s *api.EndpointSettings) error
	DisconnectNetwork(ctx context.Context, ref, container string, force bool) error
}

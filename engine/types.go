package engine

import (
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images"
)

// CreateRequest is what a client asks of Create. Config and HostConfig are the
// Docker API's own types: they are the language that clients speak, stored as
// they came after defaults were filled in.
type CreateRequest struct {
	Name       string // "" lets the engine choose
	Config     *container.Config
	HostConfig *container.HostConfig
	Networking *network.NetworkingConfig
	Platform   *ocispec.Platform // nil: the host's
}

// RemoveOptions say how to remove a container.
type RemoveOptions struct {
	Force   bool // kill it first if it runs
	Volumes bool // also its anonymous volumes
}

// StopOptions say how to stop a container. A nil Timeout is the container's
// own, 10 s if it has none; -1 waits for ever. Signal "" is the container's own.
type StopOptions struct {
	Signal  string
	Timeout *int // seconds
}

// WaitCondition is the API's wait?condition=.
type WaitCondition = container.WaitCondition

// Exit is how a container's first process ended.
type Exit struct {
	Code  int
	Error string // why it could not start or be waited for, "" otherwise
}

// AttachOptions say which streams of a container or exec to connect.
// Conn is the client's end: what is read from it goes to stdin; CloseWrite,
// where it has that, ends output. The engine frames Stdout and Stderr through
// the writers given.
type AttachOptions struct {
	Stream     bool // live streams
	Logs       bool // first what was logged before
	DetachKeys string
	Stdin      io.Reader // nil: none
	Stdout     io.Writer // nil: none
	Stderr     io.Writer // nil: none; the same as Stdout for a terminal
	// Ready is called once, when the streams are connected and before the first
	// byte, with whether the process has a terminal. The API hijacks the
	// connection in it and sets what the other fields read and write.
	Ready func(tty bool) error
}

// LogsOptions select log records. Zero Since and Until are unbounded.
type LogsOptions struct {
	Stdout, Stderr bool
	Since, Until   time.Time
	Tail           int // last n records; -1 all
	Follow         bool
}

// ExecStartOptions connect a client to an exec as it starts.
type ExecStartOptions struct {
	Detach      bool
	Tty         bool
	ConsoleSize *[2]uint // rows, columns
	AttachOptions
}

// CommitRequest makes an image of a container.
type CommitRequest struct {
	Reference string // "" makes an untagged image
	Comment   string
	Author    string
	Changes   []string // Dockerfile instructions
	Pause     bool     // pause the container meanwhile
	Config    *container.Config
}

// ArchiveStat is what cp's HEAD answers.
type ArchiveStat = container.PathStat

// BackendStatus is one discovered backend, healthy or not.
type BackendStatus struct {
	Name         string
	Path         string
	Version      string
	OS, Arch     string
	Levels       []Level
	DefaultLevel string
	Capabilities []string
	Facts        map[string]string
	Warnings     []string
	Problem      string // why it cannot be used, "" if it can
	PID          int
}

// Level is an isolation level and its strength; see backendpb.Level.
type Level struct {
	Name     string
	Strength int
}

// DiskUsage is what system df answers.
type DiskUsage struct {
	Images     []*images.Image
	LayersSize int64
	Containers []container.Summary
	Volumes    []volume.Volume // with their usage
}

package container

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	apinetwork "github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/engine/policy"
	"github.com/caisson-engine/caisson/engine/volume"
)

// Version of the durable forms. A reader migrates older ones and refuses newer.
const Version = 1

// Record is the part of a container that its verbs rarely change: what was
// asked for and what was decided. It is never changed in place once published:
// a change makes a copy, so readers need no lock on what it points to.
type Record struct {
	V     int    `json:"v"`
	ID    string `json:"id"`   // 64 hex digits
	Name  string `json:"name"` // without slash
	Owner string `json:"owner"`
	// Tenant is the scope that it belongs to, "" for the host's owner; Creator
	// is who asked for it.
	Tenant  string             `json:"tenant,omitempty"`
	Creator *identity.Identity `json:"creator,omitempty"`
	Created time.Time          `json:"created"`

	Image    string              `json:"image"`     // id
	ImageRef string              `json:"image_ref"` // as the client wrote it
	Manifest *ocispec.Descriptor `json:"manifest,omitempty"`
	// Names and ConfigDigest are what rules of the policy know the image by.
	Names        []string `json:"image_names,omitempty"`
	ConfigDigest string   `json:"image_config,omitempty"`
	OS           string   `json:"os"`
	Arch         string   `json:"arch,omitempty"`

	// Config and Host are the client's, with the image's and engine's defaults
	// filled in.
	Config    *container.Config                       `json:"config"`
	Host      *container.HostConfig                   `json:"host"`
	Endpoints map[string]*apinetwork.EndpointSettings `json:"endpoints,omitempty"`

	Decision policy.Decision `json:"decision"`
	Mounts   []volume.Mount  `json:"mounts,omitempty"`
	LogPath  string          `json:"log_path,omitempty"` // "" if the driver has no file
	// Disk is how many bytes of the disk it has for itself, which count in full.
	Disk int64 `json:"disk,omitempty"`
}

// Needs says whether it was made of an image, or mounts it.
func (r *Record) Needs(image string) bool {
	return r.Image == image || slices.ContainsFunc(r.Mounts, func(m volume.Mount) bool { return m.Image != "" && m.Source == image })
}

// Status is the part that changes as the container runs; it is written often
// and is small.
type Status struct {
	V     int   `json:"v"`
	State State `json:"state"`

	Pid        int64     `json:"pid,omitempty"` // on the host, 0 where that says nothing
	ExitCode   int       `json:"exit,omitempty"`
	Error      string    `json:"error,omitempty"` // why it did not start, or how its exit was lost
	OOMKilled  bool      `json:"oom,omitempty"`
	StartedAt  time.Time `json:"started,omitzero"`
	FinishedAt time.Time `json:"finished,omitzero"`
	// TriedAt is when the last start began: events of a run before it are stale.
	TriedAt time.Time `json:"tried,omitzero"`

	// Health is "" without a health check, else what the last tries say.
	Health        container.HealthStatus `json:"health,omitempty"`
	FailingStreak int                    `json:"streak,omitempty"` // tries that failed in a row

	Restarts int `json:"restarts,omitempty"` // by the policy, since the last start by a client
	// Stopped says that a client stopped it: unless-stopped then holds after a reboot.
	Stopped bool `json:"stopped,omitempty"`
	// StopBy is when a stop under way turns into a kill: Unix nanoseconds, -1
	// never; 0 if none is under way.
	StopBy int64 `json:"stop_by,omitempty"`

	// Again says that a client's restart stopped it and will start it.
	Again bool `json:"again,omitempty"`
	// RemoveVolumes says that the removal under way takes anonymous volumes along.
	RemoveVolumes bool `json:"remove_volumes,omitempty"`

	// Held says that the backend may have a sandbox for it and the network
	// an attachment: set before either is made, cleared after both are gone.
	Held    bool                `json:"held,omitempty"`
	Network *network.Attachment `json:"network,omitempty"`
}

// Move takes the status to the next state, or leaves it.
func (s *Status) Move(m Move) error {
	n, err := s.State.Next(m)
	if err == nil {
		s.State = n
	}
	return err
}

// HasRun says that the program began at least once.
func (s *Status) HasRun() bool { return !s.StartedAt.IsZero() }

// migrations[v] turns the stored form of version v into that of v+1.
var migrations = map[int]func(json.RawMessage) (json.RawMessage, error){}

// Decode reads a stored Record or Status of any version up to this one.
func Decode(b []byte, into any) error {
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return fmt.Errorf("stored record is damaged: %w: %w", err, errdefs.ErrDataLoss)
	}
	if head.V > Version || head.V < 1 {
		return fmt.Errorf("stored record has version %d, this engine knows up to %d: run the engine that wrote it: %w", head.V, Version, errdefs.ErrFailedPrecondition)
	}
	for v := head.V; v < Version; v++ {
		var err error
		if b, err = migrations[v](b); err != nil {
			return fmt.Errorf("migrate stored record from version %d: %w", v, err)
		}
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("stored record is damaged: %w: %w", err, errdefs.ErrDataLoss)
	}
	return nil
}

package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
)

// Volume is a volume.
type Volume struct {
	CreatedAt  string
	Driver     string
	Labels     map[string]string
	Mountpoint string
	Name       string
	Options    map[string]string
	Scope      string
	UsageData  *VolumeUsage `json:",omitempty"`
}

// VolumeUsage is what a volume takes; -1 is not known.
type VolumeUsage struct{ Size, RefCount int64 }

// VolumeCreate describes a volume to make.
type VolumeCreate struct {
	Name       string            `json:",omitempty"`
	Driver     string            `json:",omitempty"`
	DriverOpts map[string]string `json:",omitempty"`
	Labels     map[string]string `json:",omitempty"`
}

func volume(name string) string { return "/volumes/" + escapeRef(name) }

func volumeArchive(name string) string { return "/caisson/volumes/" + escapeRef(name) + "/archive" }

// CreateVolume makes a volume; one that is there already stays.
func (c *Client) CreateVolume(ctx context.Context, r VolumeCreate) (Volume, error) {
	var out Volume
	err := c.Call(ctx, Request{Method: http.MethodPost, Path: "/volumes/create", Body: r}, &out)
	return out, err
}

// Volumes lists volumes.
func (c *Client) Volumes(ctx context.Context, f Filters) ([]Volume, error) {
	var out struct{ Volumes []Volume }
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: "/volumes", Query: query("filters", f.encode())}, &out)
	return out.Volumes, err
}

// VolumeInspect describes a volume as the engine sent it.
func (c *Client) VolumeInspect(ctx context.Context, name string) (json.RawMessage, error) {
	var raw json.RawMessage
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: volume(name)}, &raw)
	return raw, err
}

// RemoveVolume deletes a volume that no container has.
func (c *Client) RemoveVolume(ctx context.Context, name string, force bool) error {
	return c.Call(ctx, Request{Method: http.MethodDelete, Path: volume(name), Query: query("force", flag(force))}, nil)
}

// PruneVolumes removes volumes that nothing uses.
func (c *Client) PruneVolumes(ctx context.Context, f Filters) (PruneReport, error) {
	var out PruneReport
	err := c.Call(ctx, Request{Method: http.MethodPost, Path: "/volumes/prune", Query: query("filters", f.encode())}, &out)
	return out, err
}

// ExportVolume is a tar of what is in a volume. Only a Caisson engine has it.
func (c *Client) ExportVolume(ctx context.Context, name string) (io.ReadCloser, error) {
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: volumeArchive(name)})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// ImportVolume fills an empty volume, made if there is none, with what is in a
// tar. Only a Caisson engine has it.
func (c *Client) ImportVolume(ctx context.Context, name string, tar io.Reader) error {
	return c.Call(ctx, Request{Method: http.MethodPut, Path: volumeArchive(name), Stream: tar, ContentType: "application/x-tar"}, nil)
}

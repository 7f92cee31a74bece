package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
)

// Ping asks for the engine's API version.
func (c *Client) Ping(ctx context.Context) (Ping, error) {
	resp, err := c.Do(ctx, Request{Method: http.MethodHead, Path: "/_ping", Unversioned: true})
	if err != nil {
		return Ping{}, err
	}
	defer resp.Body.Close()
	return Ping{APIVersion: resp.Header.Get("Api-Version"), OSType: resp.Header.Get("Ostype")}, nil
}

// ServerVersion tells the engine's version.
func (c *Client) ServerVersion(ctx context.Context) (Version, error) {
	var out Version
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: "/version"}, &out)
	return out, err
}

// Info describes the engine, also as it sent it.
func (c *Client) Info(ctx context.Context) (Info, json.RawMessage, error) {
	var raw json.RawMessage
	var out Info
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: "/info"}, &raw)
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	return out, raw, err
}

// DiskUsage tells what takes disk space; with verbose also each object.
func (c *Client) DiskUsage(ctx context.Context, verbose bool) (DiskUsage, error) {
	var out DiskUsage
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: "/system/df", Query: query("verbose", flag(verbose))}, &out)
	return out, err
}

// Login checks credentials against their registry.
func (c *Client) Login(ctx context.Context, a AuthConfig) (AuthResponse, error) {
	var out AuthResponse
	err := c.Call(ctx, Request{Method: http.MethodPost, Path: "/auth", Body: a}, &out)
	return out, err
}

// Events streams events. since and until are times as the API takes them.
func (c *Client) Events(ctx context.Context, since, until string, f Filters) (io.ReadCloser, error) {
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: "/events", Query: query("since", since, "until", until, "filters", f.encode())})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Backend is one isolation backend of a Caisson engine.
type Backend struct {
	Name, Path, Version, OS, Arch string
	Levels                        []struct {
		Name     string
		Strength int
	}
	DefaultLevel string
	Capabilities []string
	Facts        map[string]string
	Warnings     []string
	Problem      string // why it cannot be used, "" if it can
	PID          int
}

// Backends lists the engine's isolation backends. Docker's engines have none
// and answer NotFound.
func (c *Client) Backends(ctx context.Context) ([]Backend, error) {
	var out []Backend
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: "/caisson/backends"}, &out)
	return out, err
}

// Quota is what a tenant may have, or has, in sum.
type Quota struct {
	Containers     int
	Memory         int64
	CPUs           float64
	Pids           int64
	PublishedPorts int
	Networks       int
	Disk           int64
}

// Explanation is what a Caisson engine's policy says of a container.
type Explanation struct {
	Client, Tenant string
	Admin, Allowed bool
	Level, Backend string
	Strength       int
	Emulated       bool
	Rule, Reason   string
	Refused        string // why, "" if it would be allowed
	Options        []string
	ImageNames     []string
	ImageHere      bool
	Memory         int64
	CPUs           float64
	Pids           int64
	Quota, Used    *Quota
}

// Explain asks what would become of a create, also as the engine sent it. as
// asks on behalf of another client, "" for this one.
func (c *Client) Explain(ctx context.Context, r CreateRequest, platform, as string) (Explanation, json.RawMessage, error) {
	var raw json.RawMessage
	var out Explanation
	err := c.Call(ctx, Request{Method: http.MethodPost, Path: "/caisson/policy/explain", Query: query("platform", platform, "as", as), Body: r}, &raw)
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	return out, raw, err
}

// Violation is a container that a Caisson engine's policy would not allow any more.
type Violation struct {
	ID, Name, Tenant, State, Rule, Reason string
}

// Violations lists those that this client sees.
func (c *Client) Violations(ctx context.Context) ([]Violation, error) {
	var out []Violation
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: "/caisson/policy/violations"}, &out)
	return out, err
}

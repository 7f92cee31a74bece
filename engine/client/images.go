package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// authHeader carries credentials to the engine. nil sends an empty set, which
// push needs in order to be told that it is anonymous.
func authHeader(a *AuthConfig) map[string]string {
	if a == nil {
		return nil
	}
	b, _ := json.Marshal(a) // strings always encode
	return map[string]string{"X-Registry-Auth": base64.URLEncoding.EncodeToString(b)}
}

func image(name, verb string) string { return "/images/" + escapeRef(name) + verb }

// escapeRef escapes a reference but keeps the slashes of its path, as Docker's
// clients do; proxies and routers expect to see them.
func escapeRef(ref string) string {
	return (&url.URL{Path: ref}).EscapedPath()
}

// Pull asks the engine to pull; the stream reports progress. tag is a tag or a
// digest, "" for all of the repository's tags.
func (c *Client) Pull(ctx context.Context, repo, tag, platform string, auth *AuthConfig) (*Messages, error) {
	return c.messages(ctx, Request{Method: http.MethodPost, Path: "/images/create", Query: query("fromImage", repo, "tag", tag, "platform", platform), Header: authHeader(auth)})
}

// Push asks the engine to push repo:tag, all tags if tag is "".
func (c *Client) Push(ctx context.Context, repo, tag, platform string, auth *AuthConfig) (*Messages, error) {
	if auth == nil {
		auth = &AuthConfig{}
	}
	return c.messages(ctx, Request{Method: http.MethodPost, Path: image(repo, "/push"), Query: query("tag", tag, "platform", platform), Header: authHeader(auth)})
}

// ImportOptions describe an imported image.
type ImportOptions struct {
	SourceURL string // "" is the stream given
	Repo, Tag string
	Message   string
	Platform  string
	Changes   []string
}

// Import makes an image of a filesystem archive.
func (c *Client) Import(ctx context.Context, r io.Reader, o ImportOptions) (*Messages, error) {
	q := query("fromSrc", "-", "repo", o.Repo, "tag", o.Tag, "message", o.Message, "platform", o.Platform)
	if o.SourceURL != "" {
		q.Set("fromSrc", o.SourceURL)
		r = nil
	}
	for _, ch := range o.Changes {
		q.Add("changes", ch)
	}
	req := Request{Method: http.MethodPost, Path: "/images/create", Query: q}
	if r != nil {
		req.Stream, req.ContentType = r, "application/x-tar"
	}
	return c.messages(ctx, req)
}

// Load loads images from an archive.
func (c *Client) Load(ctx context.Context, r io.Reader, quiet bool, platforms []string) (*Messages, error) {
	q := platformQuery(platforms)
	q.Set("quiet", "0")
	if quiet {
		q.Set("quiet", "1")
	}
	return c.messages(ctx, Request{Method: http.MethodPost, Path: "/images/load", Query: q, Stream: r, ContentType: "application/x-tar"})
}

// Save streams images as an archive.
func (c *Client) Save(ctx context.Context, names, platforms []string) (io.ReadCloser, error) {
	q := platformQuery(platforms)
	for _, n := range names {
		q.Add("names", n)
	}
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: "/images/get", Query: q})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// platformQuery gives platforms the JSON form that the API takes.
func platformQuery(platforms []string) url.Values {
	q := url.Values{}
	for _, p := range platforms {
		q.Add("platform", platformJSON(p))
	}
	return q
}

func platformJSON(s string) string {
	if s == "" {
		return ""
	}
	var p struct {
		OS           string `json:"os,omitempty"`
		Architecture string `json:"architecture,omitempty"`
		Variant      string `json:"variant,omitempty"`
	}
	for i, part := range splitN(s, '/', 3) {
		*[]*string{&p.OS, &p.Architecture, &p.Variant}[i] = part
	}
	b, _ := json.Marshal(p) // strings always encode
	return string(b)
}

func splitN(s string, sep byte, n int) []string {
	var out []string
	for len(out) < n-1 {
		i := 0
		for i < len(s) && s[i] != sep {
			i++
		}
		if i == len(s) {
			break
		}
		out, s = append(out, s[:i]), s[i+1:]
	}
	return append(out, s)
}

// Tag gives an image another name.
func (c *Client) Tag(ctx context.Context, name, repo, tag string) error {
	return c.Call(ctx, Request{Method: http.MethodPost, Path: image(name, "/tag"), Query: query("repo", repo, "tag", tag)}, nil)
}

// RemoveImage removes a name and, with the last one, the image.
func (c *Client) RemoveImage(ctx context.Context, name string, force, noPrune bool, platforms []string) ([]ImageDeleted, error) {
	q := query("force", flag(force), "noprune", flag(noPrune))
	for _, p := range platforms {
		q.Add("platforms", platformJSON(p))
	}
	var out []ImageDeleted
	err := c.Call(ctx, Request{Method: http.MethodDelete, Path: image(name, ""), Query: q}, &out)
	return out, err
}

// ImageInspect describes an image as the engine sent it.
func (c *Client) ImageInspect(ctx context.Context, name, platform string) (json.RawMessage, error) {
	var raw json.RawMessage
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: image(name, "/json"), Query: query("platform", platformJSON(platform))}, &raw)
	return raw, err
}

// ImageListOptions select images.
type ImageListOptions struct {
	All        bool
	SharedSize bool
	Filters    Filters
}

// Images lists images, newest first.
func (c *Client) Images(ctx context.Context, o ImageListOptions) ([]ImageSummary, error) {
	var out []ImageSummary
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: "/images/json", Query: query(
		"all", flag(o.All), "shared-size", flag(o.SharedSize), "filters", o.Filters.encode())}, &out)
	return out, err
}

// History tells how an image was made, newest step first.
func (c *Client) History(ctx context.Context, name, platform string) ([]HistoryItem, error) {
	var out []HistoryItem
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: image(name, "/history"), Query: query("platform", platformJSON(platform))}, &out)
	return out, err
}

// Search asks a registry for repositories.
func (c *Client) Search(ctx context.Context, term string, limit int, f Filters, auth *AuthConfig) ([]SearchResult, error) {
	q := query("term", term, "filters", f.encode())
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var out []SearchResult
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: "/images/search", Query: q, Header: authHeader(auth)}, &out)
	return out, err
}

// PruneImages removes images that nothing uses.
func (c *Client) PruneImages(ctx context.Context, f Filters) (PruneReport, error) {
	var out PruneReport
	err := c.Call(ctx, Request{Method: http.MethodPost, Path: "/images/prune", Query: query("filters", f.encode())}, &out)
	return out, err
}

package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/containerd/errdefs"
)

func query(kv ...string) url.Values {
	q := make(url.Values, len(kv)/2)
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i+1] != "" {
			q.Set(kv[i], kv[i+1])
		}
	}
	return q
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return ""
}

func container(name, verb string) string { return "/containers/" + escape(name) + verb }

// Create makes a container. platform is os[/arch[/variant]], "" for the host's.
func (c *Client) Create(ctx context.Context, r CreateRequest, name, platform string) (CreateResponse, error) {
	var out CreateResponse
	err := c.Call(ctx, Request{Method: http.MethodPost, Path: "/containers/create", Query: query("name", name, "platform", platform), Body: r}, &out)
	return out, err
}

// Start starts a container; one that runs already stays as it is.
func (c *Client) Start(ctx context.Context, name, checkpoint, checkpointDir string) error {
	p, err := c.BeginStart(ctx, name, checkpoint, checkpointDir)
	if err != nil {
		return err
	}
	return p.Done()
}

// BeginStart asks for a start; Done tells whether it went well.
func (c *Client) BeginStart(ctx context.Context, name, checkpoint, checkpointDir string) (*Pending, error) {
	return c.Begin(ctx, Request{Method: http.MethodPost, Path: container(name, "/start"), Query: query("checkpoint", checkpoint, "checkpoint-dir", checkpointDir)})
}

// StopOptions are Stop's and Restart's. A nil Timeout is the container's own.
type StopOptions struct {
	Signal  string
	Timeout *int // seconds, -1 waits for ever
}

func (o StopOptions) query() url.Values {
	q := query("signal", o.Signal)
	if o.Timeout != nil {
		q.Set("t", strconv.Itoa(*o.Timeout))
	}
	return q
}

// Stop stops a container.
func (c *Client) Stop(ctx context.Context, name string, o StopOptions) error {
	return c.Call(ctx, Request{Method: http.MethodPost, Path: container(name, "/stop"), Query: o.query()}, nil)
}

// Restart stops and starts a container.
func (c *Client) Restart(ctx context.Context, name string, o StopOptions) error {
	return c.Call(ctx, Request{Method: http.MethodPost, Path: container(name, "/restart"), Query: o.query()}, nil)
}

// Kill sends a signal, "" for KILL.
func (c *Client) Kill(ctx context.Context, name, signal string) error {
	return c.Call(ctx, Request{Method: http.MethodPost, Path: container(name, "/kill"), Query: query("signal", signal)}, nil)
}

// Pause freezes a container's processes.
func (c *Client) Pause(ctx context.Context, name string) error {
	return c.Call(ctx, Request{Method: http.MethodPost, Path: container(name, "/pause")}, nil)
}

// Unpause lets them go on.
func (c *Client) Unpause(ctx context.Context, name string) error {
	return c.Call(ctx, Request{Method: http.MethodPost, Path: container(name, "/unpause")}, nil)
}

// Rename gives a container another name.
func (c *Client) Rename(ctx context.Context, name, to string) error {
	return c.Call(ctx, Request{Method: http.MethodPost, Path: container(name, "/rename"), Query: query("name", to)}, nil)
}

// Remove removes a container.
func (c *Client) Remove(ctx context.Context, name string, force, volumes, link bool) error {
	return c.Call(ctx, Request{Method: http.MethodDelete, Path: container(name, ""), Query: query("force", flag(force), "v", flag(volumes), "link", flag(link))}, nil)
}

// Update changes a container's limits.
func (c *Client) Update(ctx context.Context, name string, u UpdateConfig) (warnings []string, err error) {
	var out struct{ Warnings []string }
	err = c.Call(ctx, Request{Method: http.MethodPost, Path: container(name, "/update"), Body: u}, &out)
	return out.Warnings, err
}

// Inspect describes a container, also as the engine sent it.
func (c *Client) Inspect(ctx context.Context, name string, size bool) (Container, json.RawMessage, error) {
	var raw json.RawMessage
	var out Container
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: container(name, "/json"), Query: query("size", flag(size))}, &raw)
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	return out, raw, err
}

// ListOptions select containers.
type ListOptions struct {
	All     bool
	Size    bool
	Limit   int // 0 is no limit
	Filters Filters
}

// List lists containers, newest first.
func (c *Client) List(ctx context.Context, o ListOptions) ([]ContainerSummary, error) {
	q := query("all", flag(o.All), "size", flag(o.Size), "filters", o.Filters.encode())
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	var out []ContainerSummary
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: "/containers/json", Query: q}, &out)
	return out, err
}

// PruneContainers removes stopped containers.
func (c *Client) PruneContainers(ctx context.Context, f Filters) (PruneReport, error) {
	var out PruneReport
	err := c.Call(ctx, Request{Method: http.MethodPost, Path: "/containers/prune", Query: query("filters", f.encode())}, &out)
	return out, err
}

// BeginWait asks to be told when a container meets condition: "not-running",
// "next-exit" or "removed". Wait reads the answer.
func (c *Client) BeginWait(ctx context.Context, name, condition string) (*Pending, error) {
	return c.Begin(ctx, Request{Method: http.MethodPost, Path: container(name, "/wait"), Query: query("condition", condition)})
}

// Waiting is a wait that the engine has registered.
type Waiting struct{ body io.ReadCloser }

// Waiting returns when the engine has registered the wait, so that a container
// started afterwards cannot be missed.
func (p *Pending) Waiting() (*Waiting, error) {
	resp, err := p.Response() //nolint:bodyclose // Result and Close do
	if err != nil {
		return nil, err
	}
	return &Waiting{resp.Body}, nil
}

// Result returns when the condition is met.
func (w *Waiting) Result() (WaitResponse, error) {
	defer w.body.Close()
	var out WaitResponse
	b, err := io.ReadAll(w.body)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return out, fmt.Errorf("the engine went away while the container ran: %w: %w", err, errdefs.ErrUnavailable)
	}
	return out, nil
}

// Close gives the wait up.
func (w *Waiting) Close() { w.body.Close() }

// Wait waits for a condition.
func (c *Client) Wait(ctx context.Context, name, condition string) (WaitResponse, error) {
	p, err := c.BeginWait(ctx, name, condition)
	if err != nil {
		return WaitResponse{}, err
	}
	w, err := p.Waiting()
	if err != nil {
		return WaitResponse{}, err
	}
	return w.Result()
}

// AttachOptions choose what of a container to connect to.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	Logs                  bool // first what it wrote before
	DetachKeys            string
}

// BeginAttach asks for a container's streams; Hijack takes them.
func (c *Client) BeginAttach(ctx context.Context, name string, o AttachOptions) (*Pending, error) {
	return c.Begin(ctx, Request{
		Method: http.MethodPost,
		Path:   container(name, "/attach"),
		Query: query("stream", "1", "stdin", flag(o.Stdin), "stdout", flag(o.Stdout), "stderr", flag(o.Stderr),
			"logs", flag(o.Logs), "detachKeys", o.DetachKeys),
		Upgrade: true,
	})
}

// Resize tells a container's terminal its size.
func (c *Client) Resize(ctx context.Context, name string, rows, cols uint) error {
	return c.Call(ctx, Request{Method: http.MethodPost, Path: container(name, "/resize"), Query: sizeQuery(rows, cols)}, nil)
}

func sizeQuery(rows, cols uint) url.Values {
	return query("h", strconv.FormatUint(uint64(rows), 10), "w", strconv.FormatUint(uint64(cols), 10))
}

// ExecCreate prepares a process in a container and returns its id.
func (c *Client) ExecCreate(ctx context.Context, name string, e ExecConfig) (string, error) {
	var out struct {
		ID string `json:"Id"`
	}
	err := c.Call(ctx, Request{Method: http.MethodPost, Path: container(name, "/exec"), Body: e}, &out)
	return out.ID, err
}

// ExecStartDetached starts an exec and leaves it alone.
func (c *Client) ExecStartDetached(ctx context.Context, id string, e ExecStart) error {
	e.Detach = true
	return c.Call(ctx, Request{Method: http.MethodPost, Path: "/exec/" + escape(id) + "/start", Body: e}, nil)
}

// ExecAttach starts an exec and takes its streams.
func (c *Client) ExecAttach(ctx context.Context, id string, e ExecStart) (*Stream, error) {
	p, err := c.Begin(ctx, Request{Method: http.MethodPost, Path: "/exec/" + escape(id) + "/start", Body: e, Upgrade: true})
	if err != nil {
		return nil, err
	}
	return p.Hijack()
}

// ExecInspect tells how an exec is or ended.
func (c *Client) ExecInspect(ctx context.Context, id string) (Exec, error) {
	var out Exec
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: "/exec/" + escape(id) + "/json"}, &out)
	return out, err
}

// ExecResize tells an exec's terminal its size.
func (c *Client) ExecResize(ctx context.Context, id string, rows, cols uint) error {
	return c.Call(ctx, Request{Method: http.MethodPost, Path: "/exec/" + escape(id) + "/resize", Query: sizeQuery(rows, cols)}, nil)
}

// LogsOptions select log records. Since and Until are times as the API takes
// them: seconds since 1970, with a fraction.
type LogsOptions struct {
	Stdout, Stderr     bool
	Since, Until, Tail string
	Follow, Timestamps bool
	Details            bool
}

// Logs streams a container's log, framed unless it has a terminal.
func (c *Client) Logs(ctx context.Context, name string, o LogsOptions) (io.ReadCloser, error) {
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: container(name, "/logs"), Query: query(
		"stdout", flag(o.Stdout), "stderr", flag(o.Stderr), "since", o.Since, "until", o.Until, "tail", o.Tail,
		"follow", flag(o.Follow), "timestamps", flag(o.Timestamps), "details", flag(o.Details))})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Top lists a container's processes.
func (c *Client) Top(ctx context.Context, name, psArgs string) (TopResponse, error) {
	var out TopResponse
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: container(name, "/top"), Query: query("ps_args", psArgs)}, &out)
	return out, err
}

// Stats streams samples; one only if stream is false, and then without a
// second one to compare with if oneShot.
func (c *Client) Stats(ctx context.Context, name string, stream, oneShot bool) (io.ReadCloser, error) {
	q := query("one-shot", flag(oneShot))
	q.Set("stream", "0")
	if stream {
		q.Set("stream", "1")
	}
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: container(name, "/stats"), Query: q})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Changes lists what a container changed in its filesystem.
func (c *Client) Changes(ctx context.Context, name string) ([]Change, error) {
	var out []Change
	err := c.Call(ctx, Request{Method: http.MethodGet, Path: container(name, "/changes")}, &out)
	return out, err
}

// Export streams a container's filesystem as a tar archive.
func (c *Client) Export(ctx context.Context, name string) (io.ReadCloser, error) {
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: container(name, "/export")})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// StatPath describes a path in a container. It does not follow a link.
func (c *Client) StatPath(ctx context.Context, name, path string) (PathStat, error) {
	resp, err := c.Do(ctx, Request{Method: http.MethodHead, Path: container(name, "/archive"), Query: query("path", path)})
	if err != nil {
		return PathStat{}, pathError(err, name, path)
	}
	defer resp.Body.Close()
	return pathStat(resp)
}

// pathError supplies the message that an answer to HEAD cannot carry.
func pathError(err error, name, path string) error {
	var e *Error
	if errors.As(err, &e) && e.Status == http.StatusNotFound {
		e.Message = fmt.Sprintf("Could not find the file %s in container %s", path, name)
	}
	return err
}

// ReadArchive streams a path of a container as a tar archive.
func (c *Client) ReadArchive(ctx context.Context, name, path string) (io.ReadCloser, PathStat, error) {
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Path: container(name, "/archive"), Query: query("path", path)})
	if err != nil {
		return nil, PathStat{}, err
	}
	st, err := pathStat(resp)
	if err != nil {
		resp.Body.Close()
		return nil, PathStat{}, err
	}
	return resp.Body, st, nil
}

func pathStat(resp *http.Response) (PathStat, error) {
	var st PathStat
	b, err := base64.StdEncoding.DecodeString(resp.Header.Get("X-Docker-Container-Path-Stat"))
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err != nil {
		return st, fmt.Errorf("unable to decode container path stat header: %w: %w", err, errdefs.ErrInternal)
	}
	return st, nil
}

// WriteArchive unpacks a tar archive into a directory of a container.
func (c *Client) WriteArchive(ctx context.Context, name, path string, tar io.Reader, noOverwriteDirNonDir, copyUIDGID bool) error {
	q := query("path", path)
	if noOverwriteDirNonDir {
		q.Set("noOverwriteDirNonDir", "true")
	}
	if copyUIDGID {
		q.Set("copyUIDGID", "true")
	}
	return c.Call(ctx, Request{Method: http.MethodPut, Path: container(name, "/archive"), Query: q, Stream: tar, ContentType: "application/x-tar"}, nil)
}

// CommitOptions make an image of a container.
type CommitOptions struct {
	Repo, Tag       string
	Author, Comment string
	Changes         []string
	NoPause         bool
}

// Commit makes an image of a container and returns its id.
func (c *Client) Commit(ctx context.Context, name string, o CommitOptions) (string, error) {
	q := query("container", name, "repo", o.Repo, "tag", o.Tag, "author", o.Author, "comment", o.Comment)
	for _, ch := range o.Changes {
		q.Add("changes", ch)
	}
	if o.NoPause {
		q.Set("pause", "0")
	}
	var out struct {
		ID string `json:"Id"`
	}
	err := c.Call(ctx, Request{Method: http.MethodPost, Path: "/commit", Query: q}, &out)
	return out.ID, err
}

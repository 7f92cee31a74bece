package dockerapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/common"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/logs"
)

// createBody is a container as clients describe it. The shadowing fields are
// those that clients may write in more ways than the type allows.
type createBody struct {
	*container.Config
	Cmd              words
	Entrypoint       words
	MacAddress       string // until 1.51
	HostConfig       *container.HostConfig
	NetworkingConfig *network.NetworkingConfig
}

// words is a list of strings, or one string for a list of one.
type words []string

func (w *words) UnmarshalJSON(b []byte) error {
	var one string
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(b, &one); err != nil {
			return err
		}
		*w = words{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// createRequest reads what a container is to be.
func (c *call) createRequest() (engine.CreateRequest, error) {
	var none engine.CreateRequest
	body := createBody{}
	ok, err := c.readJSON(maxCreateBody, &body)
	if err != nil {
		return none, err
	}
	if !ok || body.Config == nil {
		return none, invalid("config cannot be empty in order to create a container")
	}
	body.Config.Cmd, body.Config.Entrypoint = body.Cmd, body.Entrypoint
	if body.HostConfig == nil {
		body.HostConfig = &container.HostConfig{}
	}
	if body.NetworkingConfig == nil {
		body.NetworkingConfig = &network.NetworkingConfig{}
	}
	if body.MacAddress != "" && c.version < 52 {
		if err := containerMAC(&body); err != nil {
			return none, err
		}
	}
	platform, err := parsePlatform(c.form("platform"))
	if err != nil {
		return none, err
	}
	return engine.CreateRequest{
		Name:       strings.TrimPrefix(c.form("name"), "/"),
		Config:     body.Config,
		HostConfig: body.HostConfig,
		Networking: body.NetworkingConfig,
		Platform:   platform,
	}, nil
}

func (c *call) containerCreate() error {
	r, err := c.createRequest()
	if err != nil {
		return err
	}
	res, err := c.eng.Create(c.ctx(), r)
	if err != nil {
		return err
	}
	if res.Warnings == nil {
		res.Warnings = []string{}
	}
	return c.json(http.StatusCreated, res)
}

// containerMAC moves the address that old clients give to the container to its
// endpoint, where newer ones have it.
func containerMAC(b *createBody) error {
	var mac network.HardwareAddr
	if err := mac.UnmarshalText([]byte(b.MacAddress)); err != nil {
		return invalid("invalid MAC address %q: %v", b.MacAddress, err)
	}
	name := string(b.HostConfig.NetworkMode)
	if name == "" {
		name = network.NetworkDefault
	}
	if b.NetworkingConfig.EndpointsConfig == nil {
		b.NetworkingConfig.EndpointsConfig = make(map[string]*network.EndpointSettings)
	}
	ep := b.NetworkingConfig.EndpointsConfig[name]
	if ep == nil {
		ep = &network.EndpointSettings{}
		b.NetworkingConfig.EndpointsConfig[name] = ep
	}
	if len(ep.MacAddress) != 0 && !slices.Equal(ep.MacAddress, mac) {
		return invalid("the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty")
	}
	ep.MacAddress = mac
	return nil
}

func (c *call) containerList() error {
	f, err := c.filters(containerFilters)
	if err != nil {
		return err
	}
	limit, err := c.number("limit", 0)
	if err != nil {
		return err
	}
	list, err := c.eng.List(c.ctx(), c.flag("all"), c.flag("size"), limit, f)
	if err != nil {
		return err
	}
	if list == nil {
		list = []container.Summary{}
	}
	return c.json(http.StatusOK, list)
}

func (c *call) containerInspect() error {
	res, err := c.eng.Inspect(c.ctx(), c.name, c.flag("size"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, c.containerShape(res))
}

func (c *call) containerStart() error {
	if c.form("checkpoint") != "" {
		return unsupported("starting from a checkpoint is not supported: %s", noCRIU)
	}
	already, err := c.eng.Start(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.done(already)
}

// done answers 204, or 304 if there was nothing to do.
func (c *call) done(already bool) error {
	if already {
		return c.status(http.StatusNotModified)
	}
	return c.status(http.StatusNoContent)
}

func (c *call) stopOptions() (engine.StopOptions, error) {
	o := engine.StopOptions{Signal: c.form("signal")}
	if c.form("t") == "" {
		return o, nil
	}
	t, err := c.number("t", 0)
	o.Timeout = &t
	return o, err
}

func (c *call) containerStop() error {
	o, err := c.stopOptions()
	if err != nil {
		return err
	}
	already, err := c.eng.Stop(c.ctx(), c.name, o)
	if err != nil {
		return err
	}
	return c.done(already)
}

// outcome answers a verb that has nothing to tell but an error.
func (c *call) outcome(err error) error {
	if err != nil {
		return err
	}
	return c.status(http.StatusNoContent)
}

func (c *call) containerRestart() error {
	o, err := c.stopOptions()
	if err != nil {
		return err
	}
	return c.outcome(c.eng.Restart(c.ctx(), c.name, o))
}

func (c *call) containerKill() error {
	return c.outcome(c.eng.Kill(c.ctx(), c.name, c.form("signal")))
}

func (c *call) containerPause() error { return c.outcome(c.eng.Pause(c.ctx(), c.name)) }

func (c *call) containerUnpause() error { return c.outcome(c.eng.Unpause(c.ctx(), c.name)) }

func (c *call) containerRename() error {
	return c.outcome(c.eng.Rename(c.ctx(), c.name, strings.TrimPrefix(c.form("name"), "/")))
}

func (c *call) containerRemove() error {
	if c.flag("link") {
		return invalid("container links are not supported")
	}
	return c.outcome(c.eng.Remove(c.ctx(), c.name, engine.RemoveOptions{Force: c.flag("force"), Volumes: c.flag("v")}))
}

func (c *call) containerUpdate() error {
	var u container.UpdateConfig
	if _, err := c.readJSON(maxBody, &u); err != nil {
		return err
	}
	res, err := c.eng.Update(c.ctx(), c.name, u)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, res)
}

func (c *call) containerPrune() error {
	f, err := c.filters(containerPruneFilters)
	if err != nil {
		return err
	}
	res, err := c.eng.PruneContainers(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, res)
}

var waitConditions = map[string]engine.WaitCondition{
	"":            container.WaitConditionNotRunning,
	"not-running": container.WaitConditionNotRunning,
	"next-exit":   container.WaitConditionNextExit,
	"removed":     container.WaitConditionRemoved,
}

// containerWait sends its headers once it is sure to notice the exit: clients
// read them before they start the container.
func (c *call) containerWait() error {
	cond, ok := waitConditions[c.form("condition")]
	if !ok {
		return invalid("invalid condition: %q", c.form("condition"))
	}
	ch, err := c.eng.Wait(c.ctx(), c.name, cond)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(http.StatusOK)
	if http.NewResponseController(c.w).Flush() != nil {
		return nil //nolint:nilerr // the client is gone
	}
	exit, ok := <-ch
	if !ok {
		return nil
	}
	res := container.WaitResponse{StatusCode: int64(exit.Code)}
	if exit.Error != "" {
		res.Error = &container.WaitExitError{Message: exit.Error}
	}
	_ = json.NewEncoder(c.w).Encode(res) // the client may be gone
	return nil
}

func (c *call) size() (rows, cols uint, err error) {
	h, err := strconv.ParseUint(c.form("h"), 10, 16)
	if err != nil {
		return 0, 0, invalid("invalid resize height %q: want a number up to 65535", c.form("h"))
	}
	w, err := strconv.ParseUint(c.form("w"), 10, 16)
	if err != nil {
		return 0, 0, invalid("invalid resize width %q: want a number up to 65535", c.form("w"))
	}
	return uint(h), uint(w), nil
}

func (c *call) containerResize() error {
	h, w, err := c.size()
	if err != nil {
		return err
	}
	if err := c.eng.Resize(c.ctx(), c.name, h, w); err != nil {
		return err
	}
	return c.status(http.StatusOK)
}

func (c *call) containerTop() error {
	res, err := c.eng.Top(c.ctx(), c.name, c.form("ps_args"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, res)
}

func (c *call) containerChanges() error {
	res, err := c.eng.Changes(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, res)
}

func (c *call) containerExport() error {
	r, err := c.eng.Export(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.copyOut("application/octet-stream", r)
}

func (c *call) commit() error {
	var config *container.Config
	if _, err := c.readJSON(maxCreateBody, &config); err != nil {
		return err
	}
	ref := c.form("repo")
	if tag := c.form("tag"); ref != "" && tag != "" {
		ref += ":" + tag
	}
	id, err := c.eng.Commit(c.ctx(), c.form("container"), engine.CommitRequest{
		Reference: ref,
		Comment:   c.form("comment"),
		Author:    c.form("author"),
		Changes:   c.query["changes"],
		Pause:     c.flagOr("pause", true),
		Config:    config,
	})
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, common.IDResponse{ID: id})
}

var stdTypes = map[string]stdcopy.StdType{logs.Stdout: stdcopy.Stdout, logs.Stderr: stdcopy.Stderr}

// logTime is RFC 3339 with all nine digits, so that timestamps line up.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func (c *call) containerLogs() error {
	o := engine.LogsOptions{
		Stdout: c.flag("stdout"),
		Stderr: c.flag("stderr"),
		Follow: c.flag("follow"),
		Tail:   -1,
	}
	if !o.Stdout && !o.Stderr {
		return invalid("Bad parameters: you must choose at least one stream")
	}
	var err error
	if o.Since, o.Until, err = c.timeRange(); err != nil {
		return err
	}
	// Anything but a number means all, as Docker has it.
	if n, err := strconv.Atoi(c.form("tail")); err == nil && n >= 0 {
		o.Tail = n
	}
	stamps, details := c.flag("timestamps"), c.flag("details")

	var out *flusher
	var raw bool
	var mux frames
	streams := make(map[string]io.Writer, 2)
	var line []byte
	err = c.eng.Logs(c.ctx(), c.name, o, func(tty bool) error {
		raw = tty
		c.w.Header().Set("Content-Type", c.streamType(tty))
		c.w.WriteHeader(http.StatusOK)
		out = newFlusher(c.w)
		mux.w = out
		for name, t := range stdTypes {
			streams[name] = mux.stream(t)
			if tty {
				streams[name] = out
			}
		}
		return out.Flush()
	}, func(r logs.Record) error {
		line = line[:0]
		if stamps {
			line = append(r.Time.UTC().AppendFormat(line, logTime), ' ')
		}
		if details {
			line = append(append(line, attrs(r.Attrs)...), ' ')
		}
		_, err := streams[r.Stream].Write(append(line, r.Line...))
		return err
	})
	if out == nil {
		return err
	}
	if err != nil && c.ctx().Err() == nil {
		msg := fmt.Sprintf("Error grabbing logs: %v\n", err)
		if raw {
			_, _ = out.Write([]byte(msg))
		} else {
			_, _ = mux.stream(stdcopy.Systemerr).Write([]byte(msg))
		}
	}
	out.Close()
	return nil
}

// attrs renders a record's attributes as a sorted list.
func attrs(m map[string]string) string {
	pairs := make([]string, 0, len(m))
	for k, v := range m {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

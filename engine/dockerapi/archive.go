package dockerapi

import (
	"encoding/base64"
	"encoding/json"
	"net/http"

	"github.com/moby/go-archive/compression"
	"github.com/moby/moby/api/types/container"
)

// setPathStat describes a path in the header that cp reads.
func (c *call) setPathStat(st container.PathStat) error {
	buf, err := json.Marshal(st)
	if err != nil {
		return err
	}
	c.w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(buf))
	return nil
}

// path is the mandatory path parameter.
func (c *call) path() (string, error) {
	p := c.form("path")
	if p == "" {
		return "", invalid("missing parameter: path")
	}
	return p, nil
}

func (c *call) archiveStat() error {
	p, err := c.path()
	if err != nil {
		return err
	}
	st, err := c.eng.StatPath(c.ctx(), c.name, p)
	if err != nil {
		return err
	}
	if err := c.setPathStat(st); err != nil {
		return err
	}
	return c.status(http.StatusOK)
}

func (c *call) archiveGet() error {
	p, err := c.path()
	if err != nil {
		return err
	}
	r, st, err := c.eng.ReadArchive(c.ctx(), c.name, p)
	if err != nil {
		return err
	}
	if err := c.setPathStat(st); err != nil {
		_ = r.Close()
		return err
	}
	return c.copyOut("application/x-tar", r)
}

// archivePut unpacks the body, compressed or not, into a directory.
func (c *call) archivePut() error {
	p, err := c.path()
	if err != nil {
		return err
	}
	tar, err := compression.DecompressStream(c.r.Body)
	if err != nil {
		return invalid("reading the archive: %v", err)
	}
	err = c.eng.WriteArchive(c.ctx(), c.name, p, c.flag("noOverwriteDirNonDir"), c.flag("copyUIDGID"), tar)
	if cerr := tar.Close(); err == nil && cerr != nil {
		err = invalid("reading the archive: %v", cerr)
	}
	if err != nil {
		return err
	}
	return c.status(http.StatusOK)
}

package dockerapi

import (
	"net/http"

	"github.com/moby/go-archive/compression"
	"github.com/moby/moby/api/types/volume"
)

func (c *call) volumeList() error {
	f, err := c.filters(volumeFilters)
	if err != nil {
		return err
	}
	list, err := c.eng.Volumes(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, volume.ListResponse{Volumes: list, Warnings: []string{}})
}

func (c *call) volumeCreate() error {
	var r volume.CreateRequest
	if _, err := c.readJSON(maxBody, &r); err != nil {
		return err
	}
	if r.ClusterVolumeSpec != nil {
		return unsupported("cluster volumes are not supported: %s", noSwarm)
	}
	v, err := c.eng.CreateVolume(c.ctx(), r)
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, v)
}

func (c *call) volumeInspect() error {
	v, err := c.eng.InspectVolume(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, v)
}

func (c *call) volumeRemove() error {
	if err := c.eng.RemoveVolume(c.ctx(), c.name, c.flag("force")); err != nil {
		return err
	}
	return c.status(http.StatusNoContent)
}

func (c *call) volumePrune() error {
	f, err := c.filters(volumePruneFilters)
	if err != nil {
		return err
	}
	if c.version < 42 {
		// Volumes with names went too.
		f = Filters{"all": {"true"}, "label": f["label"], "label!": f["label!"]}
	}
	report, err := c.eng.PruneVolumes(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, report)
}

func (c *call) volumeExport() error {
	tar, err := c.eng.ExportVolume(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.copyOut("application/x-tar", tar)
}

func (c *call) volumeImport() error {
	tar, err := compression.DecompressStream(c.r.Body)
	if err != nil {
		return invalid("reading the archive: %v", err)
	}
	err = c.eng.ImportVolume(c.ctx(), c.name, tar)
	if cerr := tar.Close(); err == nil && cerr != nil {
		err = invalid("reading the archive: %v", cerr)
	}
	if err != nil {
		return err
	}
	return c.status(http.StatusNoContent)
}

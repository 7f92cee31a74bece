package dockerapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// statsInterval is the time between two samples, as clients expect it.
const statsInterval = time.Second

// containerStats sends samples, each with its predecessor, from which clients
// compute the share of the cpu: a stream of them, one (after two readings), or
// with one-shot one reading without a predecessor.
func (c *call) containerStats() error {
	stream, oneShot := c.flagOr("stream", true), c.flag("one-shot")
	if stream && oneShot {
		return invalid("cannot have stream=true and one-shot=true")
	}
	cur, err := c.eng.Stats(c.ctx(), c.name, true)
	if err != nil {
		return err
	}
	if oneShot {
		return c.json(http.StatusOK, cur)
	}
	rc := http.NewResponseController(c.w)
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	if stream {
		c.w.Header().Set("Content-Type", "application/json")
		c.w.WriteHeader(http.StatusOK)
	}
	enc := json.NewEncoder(c.w)
	for {
		if stream {
			if enc.Encode(cur) != nil || rc.Flush() != nil {
				return nil
			}
		} else if cur.Read.IsZero() { // it does not run: there will be no second sample
			return c.json(http.StatusOK, cur)
		}
		select {
		case <-c.ctx().Done():
			return nil
		case <-tick.C:
		}
		next, err := c.eng.Stats(c.ctx(), c.name, true)
		switch {
		case err != nil && stream:
			return nil
		case errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err): // ended meanwhile
			return c.json(http.StatusOK, cur)
		case err != nil:
			return err
		}
		cur = withPrevious(next, cur)
		if !stream {
			return c.json(http.StatusOK, cur)
		}
	}
}

func withPrevious(cur, prev container.StatsResponse) container.StatsResponse {
	cur.PreRead, cur.PreCPUStats = prev.Read, prev.CPUStats
	return cur
}

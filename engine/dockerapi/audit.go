package dockerapi

import (
	"errors"
	"net/http"
	"time"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine/audit"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/engine/policy"
)

// unaudited are routes that change nothing although their method could.
var unaudited = map[string]bool{
	"/containers/{id}/wait":   true,
	"/containers/{id}/resize": true,
	"/exec/{id}/resize":       true,
	"/caisson/policy/explain": true,
}

// audited are routes that change something although their method should not.
var audited = map[string]bool{"/containers/{id}/attach/ws": true}

// audit notes how a request that changes something was answered, or that one was
// denied. Of several calls the first counts: a stream is noted when it begins.
func (c *call) audit(err error) {
	denied := errdefs.IsPermissionDenied(err) && !network.ByState(err)
	if c.audited || c.cfg.Audit == nil {
		return
	}
	read := c.r.Method == http.MethodGet || c.r.Method == http.MethodHead
	changes := c.route != nil && (audited[c.route.pattern] || !read && !unaudited[c.route.pattern])
	if !changes && !denied {
		return
	}
	c.audited = true
	e := c.note.Entry()
	e.Time = time.Now().UTC()
	e.By(identity.From(c.r.Context()))
	e.Method, e.Path, e.Object = c.r.Method, c.r.URL.Path, c.name
	if _, rest, ok := cutVersion(e.Path); ok {
		e.Path = rest
	}
	if c.route != nil {
		e.Action = c.route.title
	}
	if e.Object == "" {
		e.Object = c.object()
	}
	e.Outcome = audit.Allowed
	if err != nil {
		e.Made = ""
		e.Status, e.Reason = statusOf(err)
		switch {
		case denied:
			e.Outcome, e.Rule = audit.Denied, policy.RuleOf(err)
		case errors.Is(err, errdefs.ErrNotModified):
		default:
			e.Outcome = audit.Failed
		}
	}
	if err := c.cfg.Audit.Append(e); err != nil {
		c.log.Error("the audit log cannot be written", "error", err)
	}
}

// object is what a request is about that does not say so in its path.
func (c *call) object() string {
	for _, key := range []string{"name", "container", "fromImage", "names", "repo"} {
		if v := c.form(key); v != "" {
			return v
		}
	}
	return ""
}

package dockerapi

import (
	"net/http"

	"github.com/caisson-engine/caisson/engine/identity"
)

// policyExplain answers what a create of the same body would be answered, and
// why. ?as= asks on behalf of another client: uid:N, uid:N:GID[,GID…] or cert:NAME.
func (c *call) policyExplain() error {
	r, err := c.createRequest()
	if err != nil {
		return err
	}
	var as *identity.Identity
	if who := c.form("as"); who != "" {
		id, ok := identity.Parse(who)
		if !ok {
			return invalid("invalid client %q: want uid:N, uid:N:GID[,GID…], cert:NAME or anonymous", who)
		}
		as = &id
	}
	x, err := c.eng.Explain(c.ctx(), r, as)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, x)
}

func (c *call) policyViolations() error {
	return c.json(http.StatusOK, c.eng.Violations(c.ctx()))
}

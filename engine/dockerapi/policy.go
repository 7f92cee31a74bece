package dockerapi

import (
	"net/http"
	"strconv"
	"strings"

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
		if as, err = parseIdentity(who); err != nil {
			return err
		}
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

// parseIdentity reads a client's name.
func parseIdentity(s string) (*identity.Identity, error) {
	kind, rest, _ := strings.Cut(s, ":")
	switch {
	case kind == "cert" && rest != "":
		id := identity.FromCert(rest, "CN="+rest)
		return &id, nil
	case s == anonymous.Tenant:
		id := anonymous
		return &id, nil
	case kind == "uid":
		user, groups, _ := strings.Cut(rest, ":")
		uid, err := strconv.Atoi(user)
		if err != nil || uid < 0 {
			break
		}
		id := identity.FromPeer(uid, -1, 0)
		for g := range strings.SplitSeq(groups, ",") {
			gid, err := strconv.Atoi(g)
			if g == "" {
				continue
			}
			if err != nil || gid < 0 {
				return nil, invalid("invalid client %q: %q is no group", s, g)
			}
			if id.GID < 0 {
				id.GID = gid
			}
			id.Groups = append(id.Groups, gid)
		}
		return &id, nil
	}
	return nil, invalid("invalid client %q: want uid:N, uid:N:GID, cert:NAME or anonymous", s)
}

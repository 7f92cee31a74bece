package client

import (
	"context"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

const (
	// MaxAPIVersion is the newest version of the Docker Engine API that this
	// package's types follow.
	MaxAPIVersion = "1.56"
	// minAPIVersion is the oldest that it can speak.
	minAPIVersion = "1.24"
)

// Version is the API version in use.
func (c *Client) Version() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// Before says whether the API version in use is older than v.
func (c *Client) Before(v string) bool { return VersionLess(c.Version(), v) }

// downgrade makes v the version in use, and says whether that changed anything.
func (c *Client) downgrade(v string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !VersionLess(v, c.version) || VersionLess(v, minAPIVersion) {
		return false
	}
	c.version, c.negotiated = v, true
	return true
}

// tooNew recognises the refusal of a version and extracts the one offered.
func tooNew(err *Error) (string, bool) {
	if err.Status != http.StatusBadRequest || !strings.Contains(err.Message, "is too new") {
		return "", false
	}
	m := regexp.MustCompile(`version is (\d+\.\d+)`).FindStringSubmatch(err.Message)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// negotiate agrees on a version before a request that cannot be repeated.
func (c *Client) negotiate(ctx context.Context) error {
	c.mu.Lock()
	done := c.negotiated
	c.mu.Unlock()
	if done {
		return nil
	}
	p, err := c.Ping(ctx)
	if err != nil {
		return err
	}
	c.downgrade(p.APIVersion)
	c.mu.Lock()
	c.negotiated = true
	c.mu.Unlock()
	return nil
}

// VersionLess compares two API versions of the form 1.44. One that is not a
// version counts as the oldest.
func VersionLess(a, b string) bool {
	amaj, amin := splitVersion(a)
	bmaj, bmin := splitVersion(b)
	return amaj < bmaj || amaj == bmaj && amin < bmin
}

func splitVersion(v string) (major, minor int) {
	a, b, _ := strings.Cut(v, ".")
	major, _ = strconv.Atoi(a)
	minor, _ = strconv.Atoi(b)
	return major, minor
}

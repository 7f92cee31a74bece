package dockerapi

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/images"
)

// readJSON decodes a request's body of at most limit bytes into v and tells
// whether there was one. Unknown keys are ignored, as newer clients send them.
func (c *call) readJSON(limit int64, v any) (bool, error) {
	ct := c.r.Header.Get("Content-Type")
	if c.r.Body == nil || c.r.ContentLength == 0 {
		return false, nil
	}
	mt, _, err := mime.ParseMediaType(ct)
	if err != nil && ct != "" {
		return false, invalid("malformed Content-Type header (%s): %v", ct, err)
	}
	if mt != "application/json" {
		return false, invalid("unsupported Content-Type header (%s): must be 'application/json'", ct)
	}
	// The deadline must be gone before the body ends the request: after that
	// net/http watches the connection with reads of its own.
	rc := http.NewResponseController(c.w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // not every listener has deadlines
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	body := http.MaxBytesReader(c.w, c.r.Body, limit)
	dec := json.NewDecoder(body)
	if err := dec.Decode(v); err != nil {
		var tooBig *http.MaxBytesError
		switch {
		case errors.Is(err, io.EOF):
			return false, invalid("invalid JSON: got EOF while reading request body")
		case errors.As(err, &tooBig):
			return false, invalid("request body is larger than %d bytes", limit)
		}
		return false, invalid("invalid JSON: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return false, invalid("unexpected content after JSON")
	}
	return true, nil
}

// filterKeys are the keys that an endpoint's filters may have.
type filterKeys []string

var (
	containerFilters = filterKeys{"ancestor", "annotation", "before", "exited", "expose", "health", "id", "is-task", "isolation",
		"label", "name", "network", "publish", "since", "status", "volume"}
	containerPruneFilters = filterKeys{"label", "label!", "until"}
	networkPruneFilters   = filterKeys{"label", "label!", "until"}
	imageFilters          = filterKeys{"before", "dangling", "label", "reference", "since", "until"}
	imagePruneFilters     = filterKeys{"dangling", "label", "label!", "until"}
	eventFilters          = filterKeys{"config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope",
		"secret", "service", "type", "volume"}
	volumeFilters      = filterKeys{"dangling", "driver", "label", "name"}
	volumePruneFilters = filterKeys{"all", "label", "label!"}
	searchFilters      = filterKeys{"is-automated", "is-official", "stars"}
)

// filters decodes ?filters=, of which only keys in allowed are known.
func (c *call) filters(allowed filterKeys) (Filters, error) {
	f, err := parseFilters(c.form("filters"))
	if err != nil {
		return nil, err
	}
	for k := range f {
		if !slices.Contains(allowed, k) {
			return nil, invalid("invalid filter '%s'", k)
		}
	}
	return f, nil
}

// maxFilterValues bounds the work that one request's filters cause.
const maxFilterValues = 1000

// parseFilters reads {"label":{"a":true,"b":true}} and the older
// {"label":["a","b"]}. Values are sorted.
func parseFilters(s string) (Filters, error) {
	if s == "" {
		return nil, nil
	}
	raw := make(map[string]json.RawMessage)
	if err := json.Unmarshal([]byte(s), &raw); err != nil {
		return nil, invalid("invalid filter: %v", err)
	}
	f := make(Filters, len(raw))
	total := 0
	for k, v := range raw {
		var set map[string]bool
		var list []string
		if err := json.Unmarshal(v, &set); err == nil {
			for value, on := range set {
				if on {
					list = append(list, value)
				}
			}
			slices.Sort(list)
		} else if err := json.Unmarshal(v, &list); err != nil {
			return nil, invalid("invalid filter '%s': want an object or a list of strings", k)
		}
		if total += len(list); total > maxFilterValues {
			return nil, invalid("invalid filter '%s': more than %d values", k, maxFilterValues)
		}
		f[k] = list
	}
	return f, nil
}

// maxAuth bounds a decoded registry credential; cloud registries' tokens have a few KiB.
const maxAuth = 64 << 10

// parseAuth decodes X-Registry-Auth: base64url of a JSON object. Clients are
// sloppy about alphabet and padding, and say "no credential" in several ways.
func parseAuth(header string) (*images.Auth, error) {
	header = strings.TrimRight(strings.TrimSpace(header), "=")
	if header == "" {
		return nil, nil
	}
	if len(header) > base64.RawURLEncoding.EncodedLen(maxAuth) {
		return nil, invalid("invalid X-Registry-Auth header: longer than %d bytes", maxAuth)
	}
	buf, err := base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_").Replace(header))
	if err != nil {
		return nil, invalid("invalid X-Registry-Auth header: must be a valid base64url-encoded string")
	}
	var a registry.AuthConfig
	if err := json.Unmarshal(buf, &a); err != nil {
		return nil, invalid("invalid X-Registry-Auth header: not a JSON credential")
	}
	if a.Username == "" && a.Password == "" && a.Auth != "" { // as in config.json
		up, err := base64.StdEncoding.DecodeString(a.Auth)
		user, pass, ok := strings.Cut(string(up), ":")
		if err != nil || !ok {
			return nil, invalid("invalid X-Registry-Auth header: its auth field is not base64 of username:password")
		}
		a.Username, a.Password = user, pass
	}
	if a.Username == "" && a.Password == "" && a.IdentityToken == "" && a.RegistryToken == "" {
		return nil, nil
	}
	return &images.Auth{
		Username:      a.Username,
		Password:      a.Password,
		IdentityToken: a.IdentityToken,
		RegistryToken: a.RegistryToken,
		ServerAddress: a.ServerAddress,
	}, nil
}

func (c *call) registryAuth() (*images.Auth, error) {
	return parseAuth(c.r.Header.Get("X-Registry-Auth"))
}

// platform decodes a platform parameter: JSON as newer endpoints have it, or
// os[/arch[/variant]].
func parsePlatform(s string) (*ocispec.Platform, error) {
	if s == "" {
		return nil, nil
	}
	var p ocispec.Platform
	if strings.HasPrefix(s, "{") {
		if err := json.Unmarshal([]byte(s), &p); err != nil {
			return nil, invalid("invalid platform: %v", err)
		}
		return &p, nil
	}
	parsed, err := platforms.Parse(s)
	if err != nil {
		return nil, invalid("invalid platform %q: want os/architecture[/variant], as linux/arm64", s)
	}
	return &parsed, nil
}

// parseTime reads a since or until parameter: seconds of the unix epoch with an
// optional fraction, or RFC 3339. Empty is the zero time.
func parseTime(key, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	sec, frac, _ := strings.Cut(s, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil || len(frac) > 9 || strings.Trim(frac, "0123456789") != "" {
		return time.Time{}, invalid("invalid value for %q: %q is not a unix timestamp", key, s)
	}
	nanos, _ := strconv.ParseInt((frac + "000000000")[:9], 10, 64) // digits only, checked above
	return time.Unix(n, nanos), nil
}

func (c *call) timeRange() (since, until time.Time, err error) {
	if since, err = parseTime("since", c.form("since")); err != nil {
		return
	}
	// Clients ask for everything with a since of 0, for no end with an until of 0.
	if c.form("until") != "0" {
		if until, err = parseTime("until", c.form("until")); err != nil {
			return
		}
	}
	if !until.IsZero() && until.Before(since) {
		err = invalid("`since` time (%s) cannot be after `until` time (%s)", c.form("since"), c.form("until"))
	}
	return
}

// number reads an integer parameter, def if missing.
func (c *call) number(key string, def int) (int, error) {
	s := c.form(key)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, invalid("invalid value for %q: %q is not a number", key, s)
	}
	return n, nil
}

// json answers with a value.
func (c *call) json(status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(status)
	_, _ = c.w.Write(append(body, '\n')) // the client may be gone
	return nil
}

// status answers without a body.
func (c *call) status(code int) error {
	c.w.WriteHeader(code)
	return nil
}

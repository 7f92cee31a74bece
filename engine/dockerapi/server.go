// Package dockerapi serves the Docker Engine API and the few routes of our own.
// Handlers only translate: they decode a request, call one verb of Engine or
// Images, and encode the answer in the shape of the client's API version. They
// hold no state and decide nothing.
//
// # The life of a request
//
//	accept → ConnContext (identity) → ServeHTTP: tenant or admin, version, route
//	→ handler → audit log → error table
//
// All routes are one table (routes.go), all error kinds become status codes in
// one table (errors.go), the caller's identity is set in one place (identity.go)
// and what it asks is noted in one (audit.go).
package dockerapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caisson-engine/caisson/engine/audit"
	"github.com/caisson-engine/caisson/engine/identity"
)

// Versions of the API that this server speaks. The newest is that of the
// github.com/moby/moby/api module in go.mod.
const (
	MaxVersion = "1.56"
	MinVersion = "1.40"
)

// Config is what a Server is made of.
type Config struct {
	Engine    Engine
	Images    Images
	Networks  Networks     // nil: none
	Log       *slog.Logger // nil: slog.Default()
	Version   string       // of the daemon
	GitCommit string
	BuildTime string // RFC 3339
	Kernel    string // host kernel version
	// Audit is where requests that change something are noted, and denials; nil: nowhere.
	Audit *audit.Log
}

// Server answers API requests. It is an http.Handler, safe for concurrent use.
type Server struct {
	eng    Engine
	images Images
	log    *slog.Logger
	cfg    Config
	router router
	server string // value of the Server header
}

// New makes a Server. It starts nothing.
func New(c Config) *Server {
	s := &Server{eng: c.Engine, images: c.Images, log: c.Log, cfg: c}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.server = "Caisson/" + c.Version + " (" + hostOS + ")"
	s.router = compile(routes)
	return s
}

// Limits that protect the daemon from its clients.
const (
	readHeaderTimeout = 10 * time.Second // a client must have sent its headers by then
	bodyTimeout       = 30 * time.Second // and a JSON body by then
	writeTimeout      = 30 * time.Second // one progress message must be taken by then
	idleTimeout       = 3 * time.Minute  // a kept-alive connection is closed after
	maxHeader         = 256 << 10        // bytes; registry tokens travel in headers
	maxBody           = 1 << 20          // bytes of a JSON body
	maxCreateBody     = 4 << 20          // bytes of a container's description
)

// HTTPServer returns a server for s. Its requests' contexts descend from ctx, so
// that cancelling ctx ends every stream before Shutdown waits for them.
func (s *Server) HTTPServer(ctx context.Context) *http.Server {
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       connContext,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// call is one request on its way through a handler.
type call struct {
	*Server
	w       http.ResponseWriter
	r       *http.Request
	version int    // minor API version: 50 for 1.50
	name    string // the {name} of the pattern
	route   *route // nil until found
	note    *audit.Note
	audited bool
	query   map[string][]string
}

// ctx is the request's context: it carries the caller's identity and ends when
// the client goes away.
func (c *call) ctx() context.Context { return c.r.Context() }

// form returns the first value of a query parameter.
func (c *call) form(key string) string {
	if v := c.query[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// flag reads a boolean parameter as Docker does: "", 0, no, false, none are false.
func (c *call) flag(key string) bool { return truth(c.form(key)) }

// flagOr is flag with a default for a missing parameter.
func (c *call) flagOr(key string, def bool) bool {
	if _, ok := c.query[key]; !ok {
		return def
	}
	return c.flag(key)
}

func truth(v string) bool {
	switch strings.ToLower(strings.TrimSpace(v)) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// ServeHTTP negotiates the version, finds the route and turns its error into an answer.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Api-Version", MaxVersion)
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", hostOS)
	h.Set("Server", s.server)
	who := identity.From(r.Context())
	if r.TLS != nil {
		who = tlsIdentity(r.TLS)
	}
	c := &call{Server: s, w: w, version: newest, note: &audit.Note{}}
	who, err := s.eng.Identify(who)
	c.r = r.WithContext(audit.With(identity.With(r.Context(), who), c.note))
	if err == nil {
		err = s.dispatch(c)
	}
	c.audit(err)
	if err != nil {
		s.fail(c, err)
	}
}

// crossOrigin tells whether a web page that is not ours made the request: it
// must not use a socket that only its reader's browser can reach.
func crossOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host != r.Host
}

func (s *Server) dispatch(c *call) error {
	if crossOrigin(c.r) {
		return errCrossOrigin
	}
	path := c.r.URL.Path
	if v, rest, ok := cutVersion(path); ok {
		n, err := negotiate(v)
		if err != nil {
			return err
		}
		c.version, path = n, rest
	}
	rt, name := s.router.find(c.r.Method, path)
	if rt == nil || c.version < rt.since {
		return errPageNotFound
	}
	if rt.handler == nil {
		return notImplemented(rt)
	}
	c.name, c.route = name, rt
	if c.r.URL.RawQuery != "" {
		c.query = c.r.URL.Query()
	}
	return rt.handler(c)
}

// fail answers with an error, unless the client is gone.
func (s *Server) fail(c *call, err error) {
	if errors.Is(err, context.Canceled) && c.r.Context().Err() != nil {
		return
	}
	status, msg := statusOf(err)
	if status >= http.StatusInternalServerError && status != http.StatusNotImplemented {
		s.log.Warn("request failed", "method", c.r.Method, "path", c.r.URL.Path, "status", status, "error", err)
	} else {
		s.log.Debug("request refused", "method", c.r.Method, "path", c.r.URL.Path, "status", status, "error", err)
	}
	writeError(c.w, status, msg)
}

var (
	newest = minor(MaxVersion)
	oldest = minor(MinVersion)
)

// minor returns the 50 of 1.50. It is for versions known to be well formed.
func minor(v string) int {
	_, m, _ := strings.Cut(v, ".")
	n, _ := strconv.Atoi(m)
	return n
}

// cutVersion splits /v1.50/info into 1.50 and /info.
func cutVersion(path string) (version, rest string, ok bool) {
	v, found := strings.CutPrefix(path, "/v")
	if !found {
		return "", path, false
	}
	v, rest, found = strings.Cut(v, "/")
	if !found || v == "" || strings.Trim(v, "0123456789.") != "" {
		return "", path, false
	}
	return v, "/" + rest, true
}

// negotiate checks a client's version and returns its minor number.
func negotiate(v string) (int, error) {
	major, rest, _ := strings.Cut(v, ".")
	ma, err1 := strconv.Atoi(major)
	mi, err2 := strconv.Atoi(rest)
	switch {
	case err1 != nil || (rest != "" && err2 != nil):
		return 0, invalid("client version %s is not a version", v)
	case ma > 1 || ma == 1 && mi > newest:
		return 0, invalid("client version %s is too new. Maximum supported API version is %s", v, MaxVersion)
	case ma < 1 || mi < oldest:
		return 0, invalid("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", v, MinVersion)
	}
	return mi, nil
}

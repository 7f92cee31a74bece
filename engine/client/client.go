package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

// Options say where the engine is. Host has Docker's form: unix:///path,
// npipe:////./pipe/name or tcp://host:port.
type Options struct {
	Host       string
	TLS        *tls.Config       // for tcp; nil is plain text
	UserAgent  string            // "" sends none
	Headers    map[string]string // added to every request
	APIVersion string            // "" is MaxAPIVersion, negotiated down if need be
}

// Client is safe for use by several goroutines. Close it to give its idle
// connections back.
type Client struct {
	host      Host
	tls       *tls.Config
	userAgent string
	headers   map[string]string

	mu         sync.Mutex
	version    string
	negotiated bool // version was agreed with the engine or pinned by the user
	idle       []*conn
}

// New makes a client of the engine at o.Host. It opens no connection.
func New(o Options) (*Client, error) {
	h, err := ParseHost(o.Host)
	if err != nil {
		return nil, err
	}
	c := &Client{host: h, tls: o.TLS, userAgent: o.UserAgent, headers: o.Headers, version: MaxAPIVersion}
	if o.APIVersion != "" {
		c.version, c.negotiated = o.APIVersion, true
	}
	return c, nil
}

// Host is where the engine is.
func (c *Client) Host() Host { return c.host }

// Close closes the idle connections. Answers still being read stay open.
func (c *Client) Close() {
	c.mu.Lock()
	idle := c.idle
	c.idle = nil
	c.mu.Unlock()
	for _, cn := range idle {
		cn.Close()
	}
}

// Request is one call of the API.
type Request struct {
	Method string
	Path   string // below the version prefix, escaped
	Query  url.Values
	Header map[string]string
	// Body is sent as JSON. At most one of Body, Raw and Stream is set.
	Body any
	Raw  []byte
	// Stream is sent chunked, while the answer is already being waited for: an
	// engine may refuse before it read all of it.
	Stream      io.Reader
	ContentType string // of Raw or Stream
	// Upgrade asks the engine to hand over the connection.
	Upgrade bool
	// Unversioned requests have no version prefix.
	Unversioned bool
}

// Do sends r and returns the answer, whose body the caller closes. An answer
// that is an error of the engine's is returned as *Error.
func (c *Client) Do(ctx context.Context, r Request) (*http.Response, error) {
	p, err := c.Begin(ctx, r)
	if err != nil {
		return nil, err
	}
	return p.Response()
}

// Call sends r and decodes the JSON answer into out, unless out is nil.
func (c *Client) Call(ctx context.Context, r Request, out any) error {
	resp, err := c.Do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if raw, ok := out.(*json.RawMessage); ok {
		*raw, err = io.ReadAll(resp.Body)
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("the engine's answer to %s %s is not what was expected: %w: %w", r.Method, r.Path, err, errdefs.ErrInternal)
	}
	return nil
}

// Begin sends r and returns at once; Response reads the answer. A streamed
// body goes on being sent.
func (c *Client) Begin(ctx context.Context, r Request) (*Pending, error) {
	// A body that cannot be sent twice, and an answer that carries no message.
	if r.Stream != nil || r.Method == http.MethodHead && !r.Unversioned {
		if err := c.negotiate(ctx); err != nil {
			return nil, err
		}
	}
	if r.Body != nil {
		b, err := json.Marshal(r.Body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		r.Body, r.Raw, r.ContentType = nil, b, "application/json"
	}
	return c.begin(ctx, r)
}

func (c *Client) begin(ctx context.Context, r Request) (*Pending, error) {
	cn, err := c.conn(ctx)
	if err != nil {
		return nil, err
	}
	p := &Pending{c: c, ctx: ctx, r: r, cn: cn, reused: cn.used}
	p.stop = context.AfterFunc(ctx, cn.abort)
	if err := p.send(); err != nil && !p.mayRepeat(err) {
		return nil, p.fail(err)
	} else if err != nil {
		p.Cancel()
		return c.begin(ctx, r)
	}
	return p, nil
}

// path is the request target of r.
func (c *Client) path(r Request) string {
	var b strings.Builder
	b.WriteString(c.host.Prefix)
	if !r.Unversioned {
		b.WriteString("/v")
		b.WriteString(c.Version())
	}
	b.WriteString(r.Path)
	if len(r.Query) > 0 {
		b.WriteByte('?')
		b.WriteString(r.Query.Encode())
	}
	return b.String()
}

// header writes everything before the body.
func (c *Client) header(b *bytes.Buffer, r Request) {
	b.WriteString(r.Method)
	b.WriteByte(' ')
	b.WriteString(c.path(r))
	b.WriteString(" HTTP/1.1\r\nHost: ")
	b.WriteString(c.host.httpHost())
	line := func(k, v string) {
		b.WriteString("\r\n")
		b.WriteString(k)
		b.WriteString(": ")
		b.WriteString(oneLine(v))
	}
	if c.userAgent != "" {
		line("User-Agent", c.userAgent)
	}
	for k, v := range c.headers {
		line(k, v)
	}
	for k, v := range r.Header {
		line(k, v)
	}
	if r.ContentType != "" {
		line("Content-Type", r.ContentType)
	}
	if r.Upgrade {
		line("Connection", "Upgrade")
		line("Upgrade", "tcp")
	}
	switch {
	case r.Stream != nil:
		line("Transfer-Encoding", "chunked")
	case len(r.Raw) > 0 || r.Method == http.MethodPost || r.Method == http.MethodPut:
		fmt.Fprintf(b, "\r\nContent-Length: %d", len(r.Raw))
	}
	b.WriteString("\r\n\r\n")
}

// oneLine keeps a value that came from a file or a user from adding headers.
func oneLine(s string) string {
	if !strings.ContainsAny(s, "\r\n") {
		return s
	}
	return strings.NewReplacer("\r", " ", "\n", " ").Replace(s)
}

// escape makes a name one path element.
func escape(name string) string { return url.PathEscape(name) }

// conn returns an idle connection or a new one.
func (c *Client) conn(ctx context.Context) (*conn, error) {
	c.mu.Lock()
	for len(c.idle) > 0 {
		cn := c.idle[len(c.idle)-1]
		c.idle = c.idle[:len(c.idle)-1]
		if cn.fresh() {
			c.mu.Unlock()
			return cn, nil
		}
		cn.Close()
	}
	c.mu.Unlock()
	nc, err := c.host.dial(ctx)
	if err != nil {
		return nil, c.connectError(err)
	}
	if c.tls != nil && c.host.Network == "tcp" {
		nc, err = handshake(ctx, nc, c.tls, c.host.Address)
		if err != nil {
			return nil, c.connectError(err)
		}
	}
	return newConn(nc), nil
}

func handshake(ctx context.Context, nc net.Conn, cfg *tls.Config, address string) (net.Conn, error) {
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName, _, _ = net.SplitHostPort(address)
	}
	t := tls.Client(nc, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, err
	}
	return t, nil
}

// release keeps cn for the next request.
func (c *Client) release(cn *conn) {
	cn.used = true
	cn.touch()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle) >= maxIdle {
		cn.Close()
		return
	}
	c.idle = append(c.idle, cn)
}

// Package registry speaks to image registries: resolve, fetch, push, login,
// search. It is containerd's docker resolver with Docker's rules for who may be
// spoken to without TLS, bounds on what a registry may send, and Docker's words
// for what went wrong. A registry is hostile: nothing that it answers chooses a
// host without TLS, a length or a wait.
package registry

import (
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

const (
	// hub is the registry that names without a host belong to.
	hub    = "docker.io"
	hubAPI = "registry-1.docker.io"
	hubURL = "https://index.docker.io/v1/"

	// A large blob comes in several ranges at once: one connection is often
	// slower than the line. rangeCount ranges of rangeSize are held in memory.
	rangeFrom  = 64 << 20
	rangeSize  = 8 << 20
	rangeCount = 3
)

// Auth is a credential for one registry.
type Auth struct {
	Username, Password string
	IdentityToken      string // a refresh token, used in place of a password
	RegistryToken      string // a bearer token, sent as it is
}

// Client holds the connections to registries. It is safe for concurrent use.
type Client struct {
	insecure  []string
	userAgent string

	mu      sync.Mutex
	clients map[string]*http.Client // by registry host
}

// New makes a client. insecure lists host[:port] that may be spoken to without
// TLS, or with a certificate that cannot be verified; loopback always may.
func New(insecure []string, userAgent string) *Client {
	return &Client{insecure: insecure, userAgent: userAgent, clients: map[string]*http.Client{}}
}

// Close drops idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.clients {
		h.CloseIdleConnections()
	}
}

// plain tells whether a host may be spoken to without TLS.
func (c *Client) plain(hostport string) bool {
	host := hostname(hostport)
	return loopback(hostport) || slices.Contains(c.insecure, hostport) || slices.Contains(c.insecure, host)
}

// hostname is a registry's host without its port.
func hostname(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return strings.Trim(hostport, "[]")
	}
	return host
}

// loopback tells whether a registry is on this machine, as far as its name says.
func loopback(hostport string) bool {
	host := hostname(hostport)
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// client returns the HTTP client for a registry. One that may do without TLS
// is tried with it first, as Docker does.
func (c *Client) client(host string) *http.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.clients[host]; h != nil {
		return h
	}
	plain := c.plain(host)
	t := docker.DefaultHTTPTransport(&tls.Config{InsecureSkipVerify: plain, MinVersion: tls.VersionTLS12})
	t.MaxIdleConnsPerHost = 4
	t.ForceAttemptHTTP2 = true
	t.ReadBufferSize, t.WriteBufferSize = 64<<10, 64<<10
	t.MaxResponseHeaderBytes = 256 << 10
	var rt http.RoundTripper = &guard{next: t, client: c}
	if plain {
		rt = docker.NewHTTPFallback(rt)
	}
	h := &http.Client{Transport: rt}
	c.clients[host] = h
	return h
}

// guard refuses to send anything in the clear where that was not allowed:
// redirects and token servers are chosen by the registry.
type guard struct {
	next   http.RoundTripper
	client *Client
}

func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.client.plain(r.URL.Host) {
		return nil, fmt.Errorf("refusing %s://%s without TLS: add %s to insecure-registries if you trust the network: %w",
			r.URL.Scheme, r.URL.Host, r.URL.Host, errdefs.ErrPermissionDenied)
	}
	return g.next.RoundTrip(r)
}

// Repo is one repository, spoken to with one credential.
type Repo struct {
	Name      reference.Named
	resolver  remotes.Resolver
	ranged    remotes.Resolver // fetches in several ranges at once
	rangeFrom int64            // bytes of a blob that comes so
	tracker   docker.StatusTracker
}

// Repo opens a repository. auth may be nil.
func (c *Client) Repo(name reference.Named, auth *Auth) *Repo {
	tracker := docker.NewInMemoryTracker()
	o := docker.ResolverOptions{Hosts: c.hosts(auth), Tracker: tracker, Headers: http.Header{"User-Agent": {c.userAgent}}}
	r := &Repo{Name: name, tracker: tracker, rangeFrom: rangeFrom, resolver: docker.NewResolver(o), ranged: docker.NewResolver(o)}
	if loopback(reference.Domain(name)) {
		r.rangeFrom = math.MaxInt64 // nothing to gain
	}
	if w, ok := r.ranged.(remotes.ResolverWithOptions); ok {
		w.SetOptions(transfer.WithMaxConcurrentDownloads(rangeCount), transfer.WithConcurrentLayerFetchBuffer(rangeSize))
	}
	return r
}

// hosts tells how to reach a registry.
func (c *Client) hosts(auth *Auth) docker.RegistryHosts {
	var mu sync.Mutex
	made := map[string][]docker.RegistryHost{}
	return func(host string) ([]docker.RegistryHost, error) {
		mu.Lock()
		defer mu.Unlock()
		if h := made[host]; h != nil {
			return slices.Clone(h), nil
		}
		client := c.client(host)
		h := docker.RegistryHost{
			Client: client, Host: host, Scheme: "https", Path: "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve | docker.HostCapabilityPush,
			Authorizer:   c.authorizer(client, auth),
			Header:       http.Header{"User-Agent": {c.userAgent}},
		}
		if host == hub {
			h.Host = hubAPI
		}
		made[host] = []docker.RegistryHost{h}
		return slices.Clone(made[host]), nil
	}
}

func (c *Client) authorizer(client *http.Client, auth *Auth) docker.Authorizer {
	if auth != nil && auth.RegistryToken != "" {
		return bearer(auth.RegistryToken)
	}
	return docker.NewDockerAuthorizer(
		docker.WithAuthClient(&http.Client{Transport: client.Transport, Timeout: 30 * time.Second}),
		docker.WithAuthHeader(http.Header{"User-Agent": {c.userAgent}}),
		docker.WithAuthCreds(func(string) (string, string, error) {
			switch {
			case auth == nil:
				return "", "", nil
			case auth.IdentityToken != "":
				return "", auth.IdentityToken, nil
			}
			return auth.Username, auth.Password, nil
		}))
}

// bearer sends a token that the client already holds.
type bearer string

func (b bearer) Authorize(_ context.Context, r *http.Request) error {
	r.Header.Set("Authorization", "Bearer "+string(b))
	return nil
}

func (b bearer) AddResponses(context.Context, []*http.Response) error {
	return fmt.Errorf("the registry did not accept the token: %w", errdefs.ErrUnauthenticated)
}

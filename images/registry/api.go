package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// maxAnswer bounds what is read of an answer that is not a blob, bytes.
const maxAnswer = 4 << 20

// get asks host and returns the answer, whose body is bounded and must be closed.
func (c *Client) get(ctx context.Context, host, path string, change func(*http.Request)) (*http.Response, error) {
	api := host
	if host == hub {
		api = hubAPI
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+api+path, nil)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w: %w", host, err, errdefs.ErrInvalidArgument)
	}
	req.Header.Set("User-Agent", c.userAgent)
	if change != nil {
		change(req)
	}
	resp, err := c.client(host).Do(req)
	if err != nil {
		return nil, fmt.Errorf("registry %s cannot be reached: %w: %w", host, err, errdefs.ErrUnavailable)
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	return resp, nil
}

// Host returns the registry that an address as users type it names: "" and
// Docker's historical URL are Docker Hub.
func Host(address string) string {
	if address == "" || address == hubURL || address == "index.docker.io" || address == hubAPI {
		return hub
	}
	address = strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	host, _, _ := strings.Cut(address, "/")
	if host == "index.docker.io" {
		return hub
	}
	return host
}

// Login checks a credential. It returns an identity token where the registry
// gives one, to be kept in place of the password.
func (c *Client) Login(ctx context.Context, address string, a Auth) (identityToken string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	host := Host(address)
	resp, err := c.get(ctx, host, "/v2/", nil)
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return "", nil // asks nobody who he is
	}
	if resp.StatusCode != http.StatusUnauthorized {
		return "", fmt.Errorf("login attempt to https://%s/v2/ failed with status: %s: %w", host, resp.Status, errdefs.ErrUnavailable)
	}
	refused := fmt.Errorf("login to %s: unauthorized: incorrect username or password: %w", host, errdefs.ErrUnauthenticated)
	for _, ch := range auth.ParseAuthHeader(resp.Header) {
		switch ch.Scheme {
		case auth.BasicAuth:
			resp, err := c.get(ctx, host, "/v2/", func(r *http.Request) { r.SetBasicAuth(a.Username, a.Password) })
			if err != nil {
				return "", err
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return "", refused
			}
			return "", nil
		case auth.BearerAuth:
			return c.loginBearer(ctx, host, a, ch, refused)
		}
	}
	return "", fmt.Errorf("login to %s: the registry offers no way to log in that is known here: %w", host, errdefs.ErrNotImplemented)
}

func (c *Client) loginBearer(ctx context.Context, host string, a Auth, ch auth.Challenge, refused error) (string, error) {
	secret := a.Password
	if a.IdentityToken != "" {
		secret = a.IdentityToken
	}
	o, err := auth.GenerateTokenOptions(ctx, host, a.Username, secret, ch)
	if err != nil {
		return "", fmt.Errorf("login to %s: %w: %w", host, err, errdefs.ErrInvalidArgument)
	}
	o.FetchRefreshToken = true
	client := &http.Client{Transport: c.client(host).Transport, Timeout: 30 * time.Second}
	header := http.Header{"User-Agent": {c.userAgent}}
	if t, err := auth.FetchTokenWithOAuth(ctx, client, header, "caisson", o); err == nil {
		return t.RefreshToken, nil
	}
	// Many token servers know only the older way.
	t, err := auth.FetchToken(ctx, client, header, o)
	if err != nil {
		return "", fmt.Errorf("%w (%s)", refused, strings.TrimSpace(err.Error()))
	}
	return t.RefreshToken, nil
}

// Hit is one result of a search.
type Hit struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Stars       int    `json:"star_count"`
	Official    bool   `json:"is_official"`
	Automated   bool   `json:"is_automated"`
}

// Search asks the registry that term names, Docker Hub if none, for at most
// limit repositories. NotImplemented if the registry has no search.
func (c *Client) Search(ctx context.Context, term string, limit int, a *Auth) ([]Hit, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	host, query := hub, term
	if first, rest, ok := strings.Cut(term, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		host, query = Host(first), rest
	}
	api := host
	if host == hub {
		api = "index.docker.io"
	}
	q := url.Values{"q": {query}, "n": {fmt.Sprint(limit)}}
	resp, err := c.get(ctx, api, "/v1/search?"+q.Encode(), func(r *http.Request) {
		if a != nil && a.Username != "" {
			r.SetBasicAuth(a.Username, a.Password)
		}
	})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("registry %s has no search: %w", host, errdefs.ErrNotImplemented)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("search on %s: unexpected status %s: %w", host, resp.Status, errdefs.ErrUnavailable)
	}
	var answer struct {
		Results []Hit `json:"results"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("search on %s: the answer makes no sense: %w: %w", host, err, errdefs.ErrUnavailable)
	}
	if len(answer.Results) > limit && limit > 0 {
		answer.Results = answer.Results[:limit]
	}
	return answer.Results, nil
}

// Tags lists the repository's tags, at most a few thousand.
func (c *Client) Tags(ctx context.Context, name reference.Named, a *Auth) ([]string, error) {
	hosts, err := c.hosts(a)(reference.Domain(name))
	if err != nil {
		return nil, err
	}
	h := hosts[0]
	u := "https://" + h.Host + "/v2/" + reference.Path(name) + "/tags/list"
	var responses []*http.Response
	for range 3 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("User-Agent", c.userAgent)
		if err := h.Authorizer.Authorize(ctx, req); err != nil {
			return nil, explain(err, "pull", name)
		}
		resp, err := h.Client.Do(req)
		if err != nil {
			return nil, explain(err, "pull", name)
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
			var l struct {
				Tags []string `json:"tags"`
			}
			if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&l); err != nil {
				return nil, fmt.Errorf("tags of %s: %w: %w", name, err, errdefs.ErrUnavailable)
			}
			return l.Tags, nil
		case http.StatusUnauthorized:
			responses = append(responses, resp) //nolint:bodyclose // deferred above, at most three times
			if err := h.Authorizer.AddResponses(ctx, responses); err != nil {
				return nil, explain(err, "pull", name)
			}
		default:
			return nil, unknown(name)
		}
	}
	return nil, fmt.Errorf("pull access denied for %s: %w", reference.FamiliarName(name), errdefs.ErrPermissionDenied)
}

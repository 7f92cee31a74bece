package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// guarded is a registry with one manifest that asks who is there, and its
// token server.
type guarded struct {
	*httptest.Server
	scheme, user, pass string
	realm              string // "" is its own
	refresh            string // identity token that it gives and takes
}

var body = []byte(`{"schemaVersion":2}`)

func newGuarded(t *testing.T, scheme string) *guarded {
	g := &guarded{scheme: scheme, user: "ann", pass: "secret", refresh: "long-lived"}
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Close)
	return g
}

func (g *guarded) host() string { return strings.TrimPrefix(g.URL, "http://") }

func (g *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		g.token(w, r)
		return
	}
	u, p, basic := r.BasicAuth()
	allowed := g.scheme == "basic" && basic && u == g.user && p == g.pass ||
		g.scheme == "bearer" && r.Header.Get("Authorization") == "Bearer short-lived"
	if !allowed {
		realm := g.realm
		if realm == "" {
			realm = g.URL + "/token"
		}
		w.Header().Set("WWW-Authenticate", map[string]string{
			"basic":  `Basic realm="x"`,
			"bearer": fmt.Sprintf(`Bearer realm=%q,service="s"`, realm),
			"odd":    "Negotiate",
		}[g.scheme])
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if strings.Contains(r.URL.Path, "/manifests/") {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
		_, _ = w.Write(body)
	}
}

func (g *guarded) token(w http.ResponseWriter, r *http.Request) {
	u, p, _ := r.BasicAuth()
	if r.Method == http.MethodPost {
		_ = r.ParseForm()
		u, p = r.PostForm.Get("username"), r.PostForm.Get("password")
	}
	if (u != g.user || p != g.pass) && r.PostFormValue("refresh_token") != g.refresh {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"token": "short-lived", "access_token": "short-lived", "refresh_token": g.refresh})
}

func named(t *testing.T, s string) reference.Named {
	t.Helper()
	n, err := reference.ParseDockerRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAuth(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		scheme string
		auth   *Auth
		ok     bool
	}{
		{"basic", &Auth{Username: "ann", Password: "secret"}, true},
		{"basic", &Auth{Username: "ann", Password: "wrong"}, false},
		{"basic", nil, false},
		{"bearer", &Auth{Username: "ann", Password: "secret"}, true},
		{"bearer", &Auth{Username: "ann", Password: "wrong"}, false},
		{"bearer", &Auth{IdentityToken: "long-lived"}, true},
		{"bearer", &Auth{RegistryToken: "short-lived"}, true},
		{"bearer", &Auth{RegistryToken: "stale"}, false},
	} {
		g := newGuarded(t, c.scheme)
		d, err := New(nil, "test").Repo(named(t, g.host()+"/app"), c.auth).Resolve(ctx)
		if c.ok && (err != nil || d.Digest != digest.FromBytes(body)) {
			t.Errorf("%s %+v: %v", c.scheme, c.auth, err)
		}
		if !c.ok && (err == nil || !errdefs.IsPermissionDenied(err) && !errdefs.IsUnauthorized(err)) {
			t.Errorf("%s %+v: %v", c.scheme, c.auth, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestLogin(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		scheme, pass, token string
		kind                func(error) bool
	}{
		{"basic", "secret", "", nil},
		{"basic", "wrong", "", errdefs.IsUnauthorized},
		{"bearer", "secret", "long-lived", nil},
		{"bearer", "wrong", "", errdefs.IsUnauthorized},
		{"odd", "secret", "", errdefs.IsNotImplemented},
	} {
		g := newGuarded(t, c.scheme)
		token, err := New(nil, "test").Login(ctx, g.URL, Auth{Username: "ann", Password: c.pass})
		if token != c.token || c.kind == nil && err != nil || c.kind != nil && !c.kind(err) {
			t.Errorf("%s %s: %q %v", c.scheme, c.pass, token, err)
		}
	}
}

// Nothing goes out in the clear but to loopback and to registries that were
// named, wherever a registry's answers lead.
func TestPlainHTTP(t *testing.T) {
	c := New([]string{"trusted.example:5000", "bare.example"}, "test")
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "127.9.9.9": true, "[::1]:80": true,
		"trusted.example:5000": true, "trusted.example": false, "bare.example:1": true,
		"example.com": false, "localhost.example.com": false, "127.0.0.1.example.com": false, "10.0.0.1:5000": false,
	} {
		if got := c.plain(host); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
	g := newGuarded(t, "bearer")
	g.realm = "http://10.255.255.1/token"
	_, err := c.Repo(named(t, g.host()+"/app"), &Auth{Username: "ann", Password: "secret"}).Resolve(context.Background())
	if err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("credentials would have gone out: %v", err)
	}
}

func TestSearch(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/search" || r.URL.Query().Get("q") != "app" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"results":[{"name":"app","description":"d","star_count":3,"is_official":true},{"name":"app2"}]}`)
	}))
	t.Cleanup(srv.Close)
	c, host := New(nil, "test"), strings.TrimPrefix(srv.URL, "http://")
	hits, err := c.Search(context.Background(), host+"/app", 1, nil)
	if err != nil || len(hits) != 1 || hits[0] != (Hit{"app", "d", 3, true, false}) {
		t.Errorf("%v %+v", err, hits)
	}
	if _, err := c.Search(context.Background(), host+"/other", 1, nil); !errdefs.IsNotImplemented(err) {
		t.Errorf("no search: %v", err)
	}
}

// More than what was announced is never taken, and less is asked for again.
func TestFetchBounds(t *testing.T) {
	blob := bytes.Repeat([]byte("0123456789"), 1000)
	serve := blob
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(serve) }))
	t.Cleanup(srv.Close)
	repo := New(nil, "test").Repo(named(t, strings.TrimPrefix(srv.URL, "http://")+"/app"), nil)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(blob), Size: int64(len(blob)), URLs: []string{"http://10.255.255.1/elsewhere"}}
	get := func() (int, error) {
		n := 0
		err := repo.Fetch(context.Background(), d, 0, func(b []byte) error { n += len(b); return nil })
		return n, err
	}
	if n, err := get(); err != nil || n != len(blob) {
		t.Errorf("%d %v", n, err)
	}
	serve = append(bytes.Clone(blob), "more"...)
	if n, err := get(); err == nil || n > len(blob) {
		t.Errorf("too much: %d %v", n, err)
	}
	serve = blob
	full := fmt.Errorf("disk full: %w", errdefs.ErrResourceExhausted)
	if err := repo.Fetch(context.Background(), d, 0, func([]byte) error { return full }); !errdefs.IsResourceExhausted(err) {
		t.Errorf("the writer's error got lost: %v", err)
	}
}

// A large blob comes in ranges side by side, in order, from any offset; a
// registry that ignores ranges is read from one connection.
func TestRanges(t *testing.T) {
	blob := make([]byte, 3*rangeSize+12345)
	for i := range blob {
		blob[i] = byte(i>>16 ^ i)
	}
	var mu sync.Mutex
	var seen []string
	for _, ignores := range []bool{false, true} {
		seen = nil
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			seen = append(seen, r.Header.Get("Range"))
			mu.Unlock()
			if ignores {
				r.Header.Del("Range")
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
		}))
		repo := New(nil, "test").Repo(named(t, strings.TrimPrefix(srv.URL, "http://")+"/app"), nil)
		repo.rangeFrom = rangeSize
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
		for _, offset := range []int64{0, 1 << 20} {
			got := bytes.Clone(blob[:offset])
			err := repo.Fetch(context.Background(), d, offset, func(b []byte) error { got = append(got, b...); return nil })
			if err != nil || !bytes.Equal(got, blob) {
				t.Errorf("ignores %v, offset %d: %d bytes, %v", ignores, offset, len(got), err)
			}
		}
		if !ignores && len(seen) < 6 {
			t.Errorf("not side by side: %q", seen)
		}
		srv.Close()
	}
}

package engine_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/audit"
	"github.com/caisson-engine/caisson/engine/dockerapi"
	"github.com/caisson-engine/caisson/engine/enginetest"
	"github.com/caisson-engine/caisson/engine/identity"
	"github.com/caisson-engine/caisson/engine/policy"
	"github.com/caisson-engine/caisson/images"
	"github.com/caisson-engine/caisson/images/tenants"
)

// A policy of two tenants. The registry is one that nobody listens at.
const twoTenants = `
tenants:
  - {name: alpha, uids: [1001], registries: ["*"]}
  - {name: beta, uids: [1002], registries: ["*"]}
shared_images: ["shared/base:1"]
`

// house is an engine on a fake backend, with real image stores, behind its API.
type house struct {
	*rig
	url   string
	audit string // file
}

func newHouse(t *testing.T, file string, change ...func(*engine.Config, *enginetest.Launcher)) *house {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners")
	}
	dir := t.TempDir()
	h := &house{audit: filepath.Join(dir, "audit.log")}
	img, err := tenants.New(context.Background(), tenants.Config{
		Host: images.Config{Root: dir, Owner: func(ctx context.Context) string { return identity.From(ctx).Tenant }},
		Root: filepath.Join(dir, "tenants"), Dir: identity.Dir, Scope: identity.ScopeOf,
		Of:       func(ctx context.Context) string { return identity.From(ctx).Scope() },
		Shares:   func(name string) bool { return h.e.SharesImage(name) },
		Registry: func(ctx context.Context, host string) error { return h.e.MayUseRegistry(ctx, host) },
		Room:     func(scope string) (int64, error) { return h.e.Room(scope) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	})
	pol, err := policy.Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	h.rig = newRig(t, append(change, func(c *engine.Config, _ *enginetest.Launcher) {
		c.Images, c.Policy, c.Mounts = img, pol, enginetest.Mounts{}
	})...)
	log, err := audit.Open(h.audit, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	api := dockerapi.New(dockerapi.Config{Engine: h.e, Images: img, Networks: h.e, Audit: log, Log: slog.New(slog.DiscardHandler)})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, ok := identity.Parse(r.Header.Get("X-As"))
		if !ok {
			t.Errorf("a request of nobody: %s", r.URL)
		}
		api.ServeHTTP(w, r.WithContext(identity.With(r.Context(), who)))
	}))
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	h.url = srv.URL
	return h
}

// Clients of the test.
const (
	owner = "uid:0"
	alpha = "uid:1001"
	beta  = "uid:1002"
)

// reply is what a request was answered. The body of a stream is its beginning.
type reply struct {
	status int
	body   string
}

// ask sends a request as a client. A string body is JSON.
func (h *house) ask(as, method, path string, body any) reply {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
	defer cancel()
	var r io.Reader
	kind := ""
	switch b := body.(type) {
	case string:
		r, kind = strings.NewReader(b), "application/json"
	case []byte:
		r, kind = bytes.NewReader(b), "application/x-tar"
	}
	req, err := http.NewRequestWithContext(ctx, method, h.url+path, r)
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("X-As", as)
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if strings.HasSuffix(req.URL.Path, "/attach/ws") {
		for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
			req.Header.Set(k, v)
		}
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	endless := strings.HasSuffix(req.URL.Path, "/attach") || strings.HasSuffix(req.URL.Path, "/wait")
	if res.StatusCode == http.StatusSwitchingProtocols || endless && res.StatusCode == http.StatusOK {
		return reply{res.StatusCode, ""}
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply{res.StatusCode, string(b)}
}

// must is ask for what has to work. It returns the body.
func (h *house) must(as, method, path string, body any) string {
	h.t.Helper()
	r := h.ask(as, method, path, body)
	if r.status/100 != 2 || strings.Contains(r.body, `"errorDetail"`) {
		h.t.Fatalf("%s: %s %s: %d %s", as, method, path, r.status, r.body)
	}
	return r.body
}

// made is the id that a create answered.
func (h *house) made(body string) string {
	h.t.Helper()
	var r struct{ ID string }
	if err := json.Unmarshal([]byte(body), &r); err != nil || r.ID == "" {
		h.t.Fatalf("%q: %v", body, err)
	}
	return r.ID
}

// oneFile is an archive of a root filesystem.
func oneFile(t *testing.T, name, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (h *house) importImage(as, repo, tag, text string) (id string) {
	h.t.Helper()
	h.must(as, "POST", "/images/create?fromSrc=-&repo="+repo+"&tag="+tag, oneFile(h.t, "file", text))
	var img struct{ ID string }
	if err := json.Unmarshal([]byte(h.must(as, "GET", "/images/"+repo+":"+tag+"/json", nil)), &img); err != nil {
		h.t.Fatal(err)
	}
	return img.ID
}

// secret is in every name of what alpha has, so that no list may contain it.
const secret = "alphas-secret"

// things are what a tenant has of every kind: all the words for each.
type things struct {
	containers, execs, images, networks, volumes []string
	marks                                        []string // that nobody else may see
}

func (h *house) furnish(as string) things {
	h.t.Helper()
	var x things
	img := h.importImage(as, "127.0.0.1:1/"+secret, "1", "of "+secret)
	body := func(cmd string) string {
		return fmt.Sprintf(`{"Image":%q,"Cmd":["sh","-c",%q],"OpenStdin":true,"Labels":{%q:"1"},"HostConfig":{"Binds":["%s-volume:/v"],"IpcMode":"shareable"}}`, img, cmd, secret, secret)
	}
	run := h.made(h.must(as, "POST", "/containers/create?name="+secret+"-run", body("echo "+secret+"; hang")))
	h.must(as, "POST", "/containers/"+run+"/start", nil)
	idle := h.made(h.must(as, "POST", "/containers/create?name="+secret+"-idle", body("true")))
	for _, cmd := range []string{"hang", "true"} {
		x.execs = append(x.execs, h.made(h.must(as, "POST", "/containers/"+run+"/exec", fmt.Sprintf(`{"Cmd":["sh","-c",%q],"Tty":true}`, cmd))))
	}
	h.must(as, "POST", "/exec/"+x.execs[0]+"/start", `{"Detach":true}`)
	net := h.made(h.must(as, "POST", "/networks/create", fmt.Sprintf(`{"Name":%q,"Labels":{%q:"1"}}`, secret+"-net", secret)))
	h.must(as, "POST", "/networks/"+net+"/connect", fmt.Sprintf(`{"Container":%q}`, idle))
	x.networks = []string{net, net[:12], net[:4], secret + "-net"}
	x.containers = []string{run, run[:12], run[:4], secret + "-run", idle, secret + "-idle"}
	x.images = []string{img, strings.TrimPrefix(img, "sha256:"), img[7:19], "127.0.0.1:1/" + secret + ":1", "127.0.0.1:1/" + secret + "@" + img, "127.0.0.1:1/" + secret}
	h.must(as, "POST", "/volumes/create", fmt.Sprintf(`{"Name":%q,"Labels":{%q:"1"}}`, secret+"-idle-volume", secret))
	x.volumes = []string{secret + "-volume", secret + "-idle-volume"}
	for _, v := range x.volumes {
		var made struct{ Mountpoint string }
		if err := json.Unmarshal([]byte(h.must(as, "GET", "/volumes/"+v, nil)), &made); err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(made.Mountpoint, "file"), []byte(secret), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	x.marks = append([]string{net, net[:12], secret, run, run[:12], idle, idle[:12], img[7:], img[7:19]}, x.execs...)
	return x
}

// questions are what a route is asked beside its object: query and body. A route
// that is not here is asked nothing.
var questions = map[string]struct {
	query string
	body  any
}{
	"POST /containers/{id}/exec":     {"", `{"Cmd":["true"]}`},
	"POST /exec/{id}/start":          {"", `{"Detach":true}`},
	"POST /exec/{id}/resize":         {"h=10&w=10", nil},
	"POST /containers/{id}/resize":   {"h=10&w=10", nil},
	"POST /containers/{id}/kill":     {"signal=HUP", nil},
	"POST /containers/{id}/stop":     {"t=0", nil},
	"POST /containers/{id}/restart":  {"t=0", nil},
	"POST /containers/{id}/rename":   {"name=" + "stolen", nil},
	"POST /containers/{id}/update":   {"", `{"Memory":67108864}`},
	"POST /containers/{id}/attach":   {"stream=1&stdout=1&logs=1", nil},
	"GET /containers/{id}/attach/ws": {"stream=1&stdout=1&logs=1", nil},
	"GET /containers/{id}/logs":      {"stdout=1", nil},
	"GET /containers/{id}/stats":     {"stream=0", nil},
	"HEAD /containers/{id}/archive":  {"path=/", nil},
	"GET /containers/{id}/archive":   {"path=/", nil},
	"PUT /containers/{id}/archive":   {"path=/", []byte("tar")},
	"DELETE /containers/{id}":        {"force=1&v=1", nil},
	"POST /images/{name...}/tag":     {"repo=stolen", nil},
	"DELETE /images/{name...}":       {"force=1", nil},
	"POST /images/{name...}/push":    {"tag=1", nil},
	"GET /containers/json":           {"all=1&size=1", nil},
	"GET /images/json":               {"all=1&shared-size=1&manifests=1", nil},
	"GET /events":                    {"since=1&until=1", nil}, // both are set when it is asked
	"GET /system/df":                 {"verbose=1", nil},
	"POST /containers/prune":         {"", nil},
	"POST /images/prune":             {"filters=" + url.QueryEscape(`{"dangling":["false"]}`), nil},
	"POST /containers/create":        {"", `{"Image":"none"}`},
	"POST /caisson/policy/explain":   {"", `{"Image":"none"}`},
	"POST /auth":                     {"", `{"serveraddress":"127.0.0.1:1"}`},
	"GET /images/search":             {"term=127.0.0.1:1/x", nil},
	"GET /images/get":                {"names=none", nil},
	"POST /images/create":            {"fromImage=127.0.0.1:1/none&tag=1", nil},
	"POST /images/load":              {"", []byte("no archive")},
	"POST /commit":                   {"container=none", `{}`},
	"GET /containers/{id}/top":       {"ps_args=-ef", nil},
	"GET /caisson/policy/violations": {"", nil},
	"GET /networks/{id}":             {"", nil},
	"DELETE /volumes/{name...}":      {"force=0", nil},
	"POST /volumes/create":           {"", `{"Name":"betas"}`},
	"POST /volumes/prune":            {"filters=" + url.QueryEscape(`{"all":["true"]}`), nil},

	"PUT /caisson/volumes/{name...}/archive": {"", []byte("no archive")},
	"POST /networks/create":                  {"", `{"Name":"bridge"}`},
	// Of a container that nobody has: an owner is told that it is not there.
	"POST /networks/{id}/connect":    {"", `{"Container":"none"}`},
	"POST /networks/{id}/disconnect": {"", `{"Container":"none"}`},
	"POST /networks/prune":           {"", nil},
}

// target is a route's path with an object in it.
func target(r dockerapi.Route, object string) string {
	path := regexp.MustCompile(`\{[^}]*\}`).ReplaceAllLiteralString(r.Pattern, object)
	q := questions[r.Method+" "+r.Pattern].query
	if r.Pattern == "/events" {
		q = fmt.Sprintf("since=%d&until=%d", time.Now().Add(-time.Hour).Unix(), time.Now().Unix()+1)
	}
	if q != "" {
		path += "?" + q
	}
	return path
}

// objects are the words for what a route is about; ghost is one for nothing.
func (x things) objects(r dockerapi.Route) (words []string, ghost func(word string) string, known bool) {
	// A ghost looks as the word does: an id for an id, a name for a name.
	same := func(w string) string {
		hex := regexp.MustCompile(`[0-9a-f]{4,}$`).FindString(w)
		if len(hex) == 4 || len(hex) == 12 || len(hex) == 64 {
			return strings.TrimSuffix(w, hex) + strings.Repeat("0123456789abcdef", 4)[:len(hex)-1] + "e"
		}
		return strings.Replace(w, secret, "nobodys", 1)
	}
	switch {
	case !strings.Contains(r.Pattern, "{"):
		return nil, nil, true
	case strings.HasPrefix(r.Pattern, "/containers/"):
		return x.containers, same, true
	case strings.HasPrefix(r.Pattern, "/exec/"):
		return x.execs, same, true
	case strings.HasPrefix(r.Pattern, "/images/"), strings.HasPrefix(r.Pattern, "/distribution/"):
		return x.images, same, true
	case strings.HasPrefix(r.Pattern, "/volumes/"), strings.HasPrefix(r.Pattern, "/caisson/volumes/"):
		return x.volumes, same, true
	case strings.HasPrefix(r.Pattern, "/networks/"):
		return x.networks, same, true
	}
	// What no engine of this version serves answers 501 whatever it is about. A
	// kind of object that is served one day must be taught here.
	return nil, nil, !r.Served
}

// without is a reply without the word that it repeats.
func (r reply) without(word string) reply {
	bare := strings.TrimPrefix(word, "sha256:")
	repo, _, _ := strings.Cut(word, "@")
	for _, w := range []string{word, bare, repo, strings.TrimSuffix(repo, ":1"), bare[:min(12, len(bare))]} {
		r.body = strings.ReplaceAll(r.body, w, "<object>")
	}
	r.body = strings.ReplaceAll(r.body, "sha256:<object>", "<object>")
	return r
}

// Every route answers one tenant about another's objects as if they did not
// exist, and tells nothing of them where it lists.
func TestTenantsDoNotExistForEachOther(t *testing.T) {
	h := newHouse(t, twoTenants)
	x := h.furnish(alpha)
	own := h.importImage(beta, "betas", "1", "of beta") // what beta's own requests need
	h.must(owner, "GET", "/images/"+own+"/json", nil)   // the host's owner sees all
	h.must(owner, "GET", "/containers/"+x.containers[0]+"/json", nil)
	before := h.state(x)
	routes := dockerapi.Routes()
	// What ends things comes last, so that the others are asked about what lives.
	slices.SortStableFunc(routes, func(a, b dockerapi.Route) int { return rank(a) - rank(b) })

	for what, req := range h.insideBodies(x) {
		got := h.ask(beta, req.method, req.path(req.word), req.body(req.word))
		want := h.ask(beta, req.method, req.path(req.ghost), req.body(req.ghost))
		if g, want := got.without(req.word), want.without(req.ghost); g != want {
			t.Errorf("%s:\n got %d %s\nwant %d %s", what, got.status, got.body, want.status, want.body)
		}
		if mine := h.ask(alpha, req.method, req.path(req.word), req.body(req.word)); mine.without(req.word) == want.without(req.ghost) {
			t.Errorf("%s: its owner is answered the same: %d %s", what, mine.status, mine.body)
		}
	}

	for _, r := range routes {
		words, ghost, known := x.objects(r)
		if !known {
			t.Errorf("%s %s: this test does not know what kind of object that is", r.Method, r.Pattern)
			continue
		}
		ask := questions[r.Method+" "+r.Pattern].body
		if words == nil || ghost == nil {
			for _, w := range append(words, "") {
				if got := h.ask(beta, r.Method, target(r, w), ask); reveals(got, x) {
					t.Errorf("%s %s tells of another tenant: %d %s", r.Method, r.Pattern, got.status, got.body)
				}
			}
			continue
		}
		for _, w := range words {
			got := h.ask(beta, r.Method, target(r, url.PathEscape(w)), ask)
			want := h.ask(beta, r.Method, target(r, url.PathEscape(ghost(w))), ask)
			if g, want := got.without(w), want.without(ghost(w)); g != want || r.Served && got.status/100 != 4 {
				t.Errorf("%s %s of %s:\n got %d %s\nwant %d %s", r.Method, r.Pattern, w, got.status, got.body, want.status, want.body)
			}
		}
	}
	after := h.state(x)
	for id, was := range before {
		if after[id] != was {
			t.Errorf("another tenant changed %s: it was %s and is %q", id, was, after[id])
		}
	}

	// The questions are good ones: the owner of the objects gets other answers.
	for _, r := range routes {
		words, ghost, _ := x.objects(r)
		if !r.Served || ghost == nil {
			continue
		}
		if !slices.ContainsFunc(words, func(w string) bool {
			got := h.ask(alpha, r.Method, target(r, url.PathEscape(w)), questions[r.Method+" "+r.Pattern].body)
			want := h.ask(alpha, r.Method, target(r, url.PathEscape(ghost(w))), questions[r.Method+" "+r.Pattern].body)
			return got.without(w) != want.without(ghost(w))
		}) {
			t.Errorf("%s %s: its owner is answered as if it were not there", r.Method, r.Pattern)
		}
	}
}

func rank(r dockerapi.Route) int {
	switch {
	case strings.HasSuffix(r.Pattern, "/prune"):
		return 4
	case strings.HasSuffix(r.Pattern, "/rename"):
		return 1
	case r.Method == http.MethodDelete && strings.HasPrefix(r.Pattern, "/images/"):
		return 3
	case r.Method == http.MethodDelete:
		return 2
	}
	return 0
}

func reveals(r reply, x things) bool {
	return slices.ContainsFunc(x.marks, func(m string) bool { return strings.Contains(r.body, m) })
}

// state is what alpha has, as far as another could change it.
func (h *house) state(x things) map[string]string {
	out := map[string]string{}
	var ctrs []struct {
		ID, State, ImageID string
		Names              []string
	}
	if err := json.Unmarshal([]byte(h.must(alpha, "GET", "/containers/json?all=1", nil)), &ctrs); err != nil {
		h.t.Fatal(err)
	}
	for _, c := range ctrs {
		out[c.ID] = fmt.Sprint(c.State, c.Names, c.ImageID)
	}
	var imgs []struct {
		ID       string
		RepoTags []string
	}
	if err := json.Unmarshal([]byte(h.must(alpha, "GET", "/images/json?all=1", nil)), &imgs); err != nil {
		h.t.Fatal(err)
	}
	for _, i := range imgs {
		out[i.ID] = fmt.Sprint(i.RepoTags)
	}
	for _, v := range x.volumes {
		out[v] = h.must(alpha, "GET", "/volumes/"+v, nil)
	}
	var nets []struct{ ID, Name string }
	if err := json.Unmarshal([]byte(h.must(alpha, "GET", "/networks", nil)), &nets); err != nil {
		h.t.Fatal(err)
	}
	for _, n := range nets {
		out[n.ID] = n.Name
	}
	return out
}

// inside is a request that names an object elsewhere than in its path.
type inside struct {
	method, word, ghost string
	path                func(word string) string
	body                func(word string) any
}

// insideBodies are all the ways to name another's object in a query or a body.
func (h *house) insideBodies(x things) map[string]inside {
	run, name, img := x.containers[0], x.containers[3], x.images[0]
	none := func(string) any { return nil }
	fixed := func(p string) func(string) string { return func(string) string { return p } }
	const noID, noName, noImage = "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff", "nobodys-run",
		"sha256:00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff"
	create := func(host string) inside {
		return inside{"POST", run, noID, fixed("/containers/create"), func(w string) any {
			return `{"Image":"betas:1","Cmd":["true"],"HostConfig":` + fmt.Sprintf(host, w) + `}`
		}}
	}
	filter := func(path, key, word, ghost string) inside {
		return inside{"GET", word, ghost, func(w string) string {
			return path + "filters=" + url.QueryEscape(fmt.Sprintf(`{%q:[%q]}`, key, w))
		}, none}
	}
	// beta's own image by the same name, for its owner's requests to work as well.
	h.importImage(alpha, "betas", "1", "of alpha")
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}]}`, img, h.manifestSize(img))
	for name, text := range map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": index} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			h.t.Fatal(err)
		}
		_, _ = w.Write([]byte(text)) // to memory
	}
	_ = w.Close() // the same
	return map[string]inside{
		"--volumes-from":                 create(`{"VolumesFrom":[%q]}`),
		"--network container:":           create(`{"NetworkMode":"container:%s"}`),
		"--pid container:":               create(`{"PidMode":"container:%s"}`),
		"--ipc container:":               create(`{"IpcMode":"container:%s"}`),
		"create of an image":             {"POST", img, noImage, fixed("/containers/create"), func(w string) any { return fmt.Sprintf(`{"Image":%q,"Cmd":["true"]}`, w) }},
		"explain of an image":            {"POST", img, noImage, fixed("/caisson/policy/explain"), func(w string) any { return fmt.Sprintf(`{"Image":%q,"Cmd":["true"]}`, w) }},
		"commit":                         {"POST", name, noName, func(w string) string { return "/commit?container=" + w }, none},
		"save of many":                   {"GET", img, noImage, func(w string) string { return "/images/get?names=" + w }, none},
		"ps ancestor":                    filter("/containers/json?all=1&", "ancestor", img, noImage),
		"ps before":                      filter("/containers/json?all=1&", "before", name, noName),
		"ps id":                          filter("/containers/json?all=1&", "id", run, noID),
		"ps name":                        filter("/containers/json?all=1&", "name", name, noName),
		"volume ls name":                 filter("/volumes?", "name", secret, "nobodys"),
		"volume ls label":                filter("/volumes?", "label", secret, "nobodys"),
		"events of a volume":             filter(fmt.Sprintf("/events?since=1&until=%d&", time.Now().Unix()+1), "volume", secret+"-volume", "nobodys-volume"),
		"ps volume":                      filter("/containers/json?all=1&", "volume", secret+"-volume", "nobodys-volume"),
		"ps network":                     filter("/containers/json?all=1&", "network", secret+"-net", "nobodys-net"),
		"networks of a name":             filter("/networks?", "name", secret+"-net", "nobodys-net"),
		"connect":                        {"POST", run, noID, fixed("/networks/bridge/connect"), func(w string) any { return fmt.Sprintf(`{"Container":%q}`, w) }},
		"disconnect":                     {"POST", run, noID, fixed("/networks/bridge/disconnect"), func(w string) any { return fmt.Sprintf(`{"Container":%q}`, w) }},
		"images before":                  filter("/images/json?", "before", x.images[3], "127.0.0.1:1/nobodys:1"),
		"images reference":               filter("/images/json?", "reference", x.images[3], "127.0.0.1:1/nobodys:1"),
		"an archive that names a digest": {"POST", img, noImage, fixed("/images/load"), func(w string) any { return bytes.ReplaceAll(archive.Bytes(), []byte(img), []byte(w)) }},
		"events of a container":          filter(fmt.Sprintf("/events?since=1&until=%d&", time.Now().Unix()+1), "container", name, noName),
	}
}

// manifestSize is the size of an image's manifest, which an archive must name.
func (h *house) manifestSize(id string) int {
	h.t.Helper()
	var img struct{ Descriptor struct{ Size int } }
	if err := json.Unmarshal([]byte(h.must(alpha, "GET", "/images/"+id+"/json", nil)), &img); err != nil || img.Descriptor.Size == 0 {
		h.t.Fatalf("%+v %v", img, err)
	}
	return img.Descriptor.Size
}

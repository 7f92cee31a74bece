package interop

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

var digestLine = regexp.MustCompile(`(?i)digest: (sha256:[0-9a-f]{64})`)

// What is pushed comes back: under another tag, by digest, after its removal.
func TestPushAndPull(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	reg := testimage.StartRegistry(t)
	e := busybox(t)
	each(t, e, func(t *testing.T, c client) {
		repo := reg.Addr + "/" + c.name[:6] + "/app"
		c.must(t, "run", "--name", "made", "--network", "none", "busybox", "sh", "-c", "echo "+c.name+" >/made; rm /etc/group")
		c.must(t, "commit", "-c", `CMD ["cat","/made"]`, "made", repo+":1")
		c.must(t, "rm", "made")
		c.must(t, "tag", repo+":1", repo+":2")
		pushed := digestLine.FindStringSubmatch(c.must(t, "push", repo+":1"))
		if pushed == nil {
			t.Fatal("push told no digest")
		}
		// The second tag is the same manifest, whose blobs are all there.
		c.want(t, `(?s)Layer already exists.*`+pushed[1], "push", repo+":2")
		c.want(t, regexp.QuoteMeta(repo+"@"+pushed[1]), "image", "inspect", "-f", "{{.RepoDigests}}", repo+":1")

		c.want(t, `(?s)Untagged: .*:1`, "rmi", repo+":1")
		c.want(t, `Deleted: sha256:`, "rmi", "-f", repo+":2")
		c.refused(t, `No such image`, "image", "inspect", repo+":1")

		byDigest := repo + "@" + pushed[1]
		c.want(t, "Digest: "+pushed[1], "pull", byDigest)
		c.want(t, "^"+c.name+"$", "run", "--rm", "--network", "none", byDigest)
		c.want(t, "<none>", "images", "--digests", repo)
		c.must(t, "rmi", byDigest)
		c.want(t, "Digest: "+pushed[1], "pull", "-a", repo)
		c.want(t, `(?s)^[12]\n[12]$`, "images", "--format", "{{.Tag}}", repo)
		c.want(t, "^"+c.name+"$", "run", "--rm", "--network", "none", repo+":2")
		c.must(t, "rmi", repo+":1", repo+":2")

		// Not there: run pulls, says so, and tells what is wrong.
		c.refused(t, `(?s)Unable to find image '`+repo+`:3' locally.*(manifest unknown|not found)`, "run", "--rm", repo+":3")
		c.refused(t, `manifest unknown|not found`, "pull", repo+":3")
		c.refused(t, `(?i)pull access denied|not found|name unknown`, "pull", reg.Addr+"/no/such")
		c.refused(t, `(?i)no such image|does not exist`, "push", repo+":none")
		c.refused(t, `(?i)connect|refused`, "pull", "127.0.0.1:1/a/b")
	})
}

// A registry with passwords serves only who knows one.
func TestLogin(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	reg := testimage.StartPrivateRegistry(t)
	e := busybox(t)
	each(t, e, func(t *testing.T, c client) {
		image := reg.Addr + "/private/app:" + c.name[:6]
		c.must(t, "tag", "busybox", image)
		c.refused(t, `no basic auth credentials|authentication required|unauthorized|denied`, "push", image)
		login := func(password string) harness.Result {
			cmd := c.command("login", "-u", testimage.RegistryUser, "--password-stdin", reg.Addr)
			cmd.Stdin = strings.NewReader(password + "\n")
			return harness.Do(t, cmd)
		}
		if r := login("wrong"); r.Code == 0 || !strings.Contains(r.Stderr, "unauthorized") || !strings.Contains(r.Stderr, reg.Addr) {
			t.Errorf("a wrong password: %v", r)
		}
		if _, err := os.Stat(filepath.Join(c.home, ".docker/config.json")); err == nil {
			if b, _ := os.ReadFile(filepath.Join(c.home, ".docker/config.json")); strings.Contains(string(b), reg.Addr) {
				t.Errorf("a wrong password was kept: %s", b)
			}
		}
		if r := login(testimage.RegistryPassword); r.Code != 0 || !strings.Contains(r.Stdout, "Login Succeeded") {
			t.Fatalf("the right password: %v", r)
		}
		c.must(t, "push", image)
		c.must(t, "rmi", image)
		c.must(t, "pull", image)
		c.must(t, "rmi", image)
		c.must(t, "run", "--rm", "--network", "none", image, "true")
		c.must(t, "logout", reg.Addr)
		c.must(t, "rmi", image)
		c.refused(t, `no basic auth credentials|authentication required|unauthorized|denied`, "pull", image)
	})
}

// valve is a proxy before a registry that, while shut, lets only the first
// bytes of a large blob through.
type valve struct {
	*httptest.Server
	shut   atomic.Bool
	few    int64
	once   sync.Once
	stuck  chan struct{} // closed when a download first waits
	mu     sync.Mutex
	ranges []string // Range headers of the downloads since the valve was opened
}

func newValve(t *testing.T, registry string, few int64) *valve {
	v := &valve{few: few, stuck: make(chan struct{})}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	proxy.FlushInterval = -1
	proxy.ErrorLog = log.New(io.Discard, "", 0) // downloads that end early are meant
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method != http.MethodGet || !strings.Contains(r.Request.URL.Path, "/blobs/") || r.ContentLength >= 0 && r.ContentLength <= few {
			return nil
		}
		if v.shut.Load() {
			r.Body = &drip{body: r.Body, left: few, valve: v, gone: r.Request.Context().Done()}
			return nil
		}
		v.mu.Lock()
		v.ranges = append(v.ranges, r.Request.Header.Get("Range"))
		v.mu.Unlock()
		return nil
	}
	v.Server = httptest.NewServer(proxy)
	t.Cleanup(v.Close)
	return v
}

func (v *valve) addr() string { return strings.TrimPrefix(v.URL, "http://") }

// drip is a body that stops after a while until its reader goes away.
type drip struct {
	body  io.ReadCloser
	left  int64
	valve *valve
	gone  <-chan struct{}
}

func (d *drip) Read(p []byte) (int, error) {
	if d.left == 0 {
		d.valve.once.Do(func() { close(d.valve.stuck) })
		<-d.gone
		return 0, io.ErrUnexpectedEOF
	}
	n, err := d.body.Read(p[:min(int64(len(p)), d.left)])
	d.left -= int64(n)
	return n, err
}

func (d *drip) Close() error { return d.body.Close() }

// Whoever is killed in the middle of a pull, the next goes on where it was.
func TestPullGoesOn(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	archive := testimage.Debian(t)
	reg := testimage.StartRegistry(t)
	testimage.Push(t, archive, reg.Addr+"/debian:1")
	const few = 40 << 20
	for _, who := range []string{"client", "engine"} {
		harness.Run(t, who, func(t *testing.T) {
			v := newValve(t, reg.Addr, few)
			e := harness.Start(t)
			image := v.addr() + "/debian:1"
			v.shut.Store(true)
			c := clients(t, e)[0]
			pull := c.command("pull", image)
			if err := pull.Start(); err != nil {
				t.Fatal(err)
			}
			<-v.stuck
			// What was sent is on the disk, or soon.
			e.Until("the first part is stored", func() bool { return partial(t, e.DataRoot) > few/2 })
			if who == "client" {
				if err := pull.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			} else {
				e.Kill("caissond")
				e.WaitReady()
			}
			_ = pull.Wait()
			v.shut.Store(false)
			c.must(t, "pull", image)
			c.want(t, "^ok$", "run", "--rm", "--network", "none", image, "python3", "-c", "print('ok')")
			v.mu.Lock()
			defer v.mu.Unlock()
			if len(v.ranges) != 1 || !regexp.MustCompile(`^bytes=[1-9]\d+-`).MatchString(v.ranges[0]) {
				t.Errorf("the second pull asked for %q of the layer, should have gone on", v.ranges)
			}
			c.must(t, "rmi", image)
		})
	}
}

// partial is the size of the largest unfinished download.
func partial(t *testing.T, root string) (size int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "content/ingest/*/data"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if fi, err := os.Stat(f); err == nil {
			size = max(size, fi.Size())
		}
	}
	return size
}

package engine_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/enginetest"
)

// disk is a file system in memory that keeps limits, or does not.
type disk struct {
	problem error
	mu      sync.Mutex
	used    int64
	limits  map[string]int64  // by the first directory
	joined  map[string]string // directory → whose limit
}

func (d *disk) Problem() error { return d.problem }

func (d *disk) Limit(bytes int64, dirs ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limits[dirs[0]] = bytes
	return nil
}

func (d *disk) Join(with string, dirs ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, dir := range dirs {
		d.joined[dir] = with
	}
	return nil
}

func (d *disk) Used(string) (int64, error) { return d.Measure(context.Background()) }

func (d *disk) Measure(context.Context, ...string) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used, nil
}

func (d *disk) set(used int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used = used
}

// A tenant over its disk quota gets nothing new, however that is found out; the
// host's owner and others go on.
func TestDiskQuota(t *testing.T) {
	const file = `
tenants:
  - {name: alpha, uids: [1001], registries: ["*"], quota: {disk: 10m}}
  - {name: beta, uids: [1002]}
shared_images: ["*"]
`
	for _, problem := range []error{nil, fmt.Errorf("no quotas here: %w", errdefs.ErrFailedPrecondition)} {
		t.Run(fmt.Sprint(problem), func(t *testing.T) {
			d := &disk{problem: problem, limits: map[string]int64{}, joined: map[string]string{}}
			h := newHouse(t, file, func(c *engine.Config, _ *enginetest.Launcher) { c.Disks = d })
			home := filepath.Join(h.cfg.DataRoot, "tenants", "alpha")
			create := func(as, host string) reply {
				return h.ask(as, "POST", "/containers/create", `{"Image":"img:1","Cmd":["true"],"HostConfig":`+host+`}`)
			}
			h.importImage(owner, "img", "1", "shared")
			made, later := h.made(create(alpha, `{}`).body), h.made(create(alpha, `{}`).body)
			if problem == nil {
				if got := d.limits[home]; got != 10<<20 {
					t.Errorf("the kernel was told %d", got)
				}
				if len(d.joined) != 4 { // upper and work of each
					t.Errorf("the layer of a container on a shared image is not the tenant's: %v", d.joined)
				}
				if r := create(alpha, `{"StorageOpt":{"size":"4m"}}`); r.status != 201 {
					t.Errorf("%d %s", r.status, r.body)
				}
				if r := create(alpha, `{"StorageOpt":{"size":"7m"}}`); r.status != 403 || !strings.Contains(r.body, "disk: 10m allowed, 4m in use, 7m asked for") {
					t.Errorf("%d %s", r.status, r.body)
				}
				h.must(alpha, "POST", "/containers/"+made+"/start", nil)
				if got := d.limits[home]; got != 6<<20 {
					t.Errorf("of what another container has for itself the kernel was told nothing: %d", got)
				}
			} else if r := create(alpha, `{"StorageOpt":{"size":"4m"}}`); r.status != 400 || !strings.Contains(r.body, "--storage-opt size: no quotas here") {
				t.Errorf("%d %s", r.status, r.body)
			}
			if r := create(owner, `{"StorageOpt":{"size":"4q"}}`); r.status != 400 {
				t.Errorf("%d %s", r.status, r.body)
			}
			d.set(20 << 20)
			h.reload(file) // which measures anew
			for what, r := range map[string]reply{
				"create": create(alpha, `{}`),
				"start":  h.ask(alpha, "POST", "/containers/"+later+"/start", nil),
				"import": h.ask(alpha, "POST", "/images/create?fromSrc=-&repo=x&tag=1", oneFile(t, "f", "x")),
				"pull":   h.ask(alpha, "POST", "/images/create?fromImage=127.0.0.1:1/none&tag=1", nil),
				"tag":    h.ask(alpha, "POST", "/images/img:1/tag?repo=mine", nil),
			} {
				if !strings.Contains(r.body, "quota of tenant alpha: disk: 10m allowed") {
					t.Errorf("%s: %d %s", what, r.status, r.body)
				}
			}
			for _, as := range []string{beta, owner} {
				if r := create(as, `{}`); r.status != 201 {
					t.Errorf("%s: %d %s", as, r.status, r.body)
				}
			}
			h.reload(strings.Replace(file, "10m", "100m", 1))
			if r := create(alpha, `{}`); r.status != 201 {
				t.Errorf("after the quota was raised: %d %s", r.status, r.body)
			}
		})
	}
}

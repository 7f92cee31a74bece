package images

import (
	"context"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"

	"github.com/caisson-engine/caisson/images/store"
)

func TestMemo(t *testing.T) {
	const chain = digest.Digest("sha256:1")
	var c memo[int]
	_, gen, _ := c.load(chain)
	c.store(chain, 1, gen)
	if v, _, ok := c.load(chain); !ok || v != 1 {
		t.Errorf("%d %v", v, ok)
	}
	_, before, _ := c.load(chain)
	c.suspend()
	_, during, ok := c.load(chain)
	if ok {
		t.Error("known during a collection")
	}
	c.store(chain, 2, before)
	c.store(chain, 3, during)
	c.resume()
	c.store(chain, 4, during)
	if v, _, ok := c.load(chain); ok {
		t.Errorf("what was read around a collection is remembered: %d", v)
	}
}

// gated is a snapshotter that, once armed, deletes no file before it is let.
type gated struct {
	snapshots.Snapshotter
	armed       atomic.Bool
	waits, open chan struct{}
}

func (g *gated) Cleanup(ctx context.Context) error {
	if g.armed.CompareAndSwap(true, false) {
		close(g.waits)
		<-g.open
	}
	return g.Snapshotter.(snapshots.Cleaner).Cleanup(ctx)
}

// An image that is pulled again while its files are being deleted stands on its
// new ones.
func TestPullWhileCollecting(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners")
	}
	ctx, hub := t.Context(), newHub(t)
	g := &gated{waits: make(chan struct{}), open: make(chan struct{})}
	s, err := New(ctx, Config{Root: t.TempDir(), SnapshotterName: store.DefaultSnapshotter, Snapshotter: func(dir string) (_ snapshots.Snapshotter, err error) {
		g.Snapshotter, err = store.NewSnapshotter(dir)
		return g, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !s.overlay {
		t.Skip("needs the overlay")
	}
	hub.image(t, "v1", host, layer(t, dir("etc"), file{name: "etc/a", body: "x"}))
	name := hub.host() + "/test/app:v1"
	lower := func() string {
		t.Helper()
		img, err := s.Pull(ctx, PullOptions{Ref: name}, func(Update) {})
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Prepare(ctx, "c1", img, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Release(ctx, "c1"); err != nil {
			t.Fatal(err)
		}
		return strings.TrimPrefix(m[0].Options[0], "lowerdir=") + "/etc/a"
	}
	lower()
	g.armed.Store(true)
	if _, err := s.Delete(ctx, name, true, true, nobodyUses); err != nil {
		t.Fatal(err)
	}
	<-g.waits // the layers are gone from the database, not yet from the disk
	again := lower()
	close(g.open)
	if err := s.gc.Now(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(again); err != nil {
		t.Error(err)
	}
}

// Package enginetest has what an engine under test stands on: images and a
// network in memory that can be told to fail, and a launcher of fake backends.
package enginetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/backend/fake"
	"github.com/caisson-engine/caisson/engine/network"
	"github.com/caisson-engine/caisson/images"
)

// Images has one image, "img", and a directory of roots.
type Images struct {
	engine.ImageService // what a test does not need panics

	Dir    string           // of the roots, a file each
	Config images.RunConfig // of the image
	OS     string           // of the image
	Fail   map[string]error // by method
	Layer  []byte           // of the last commit
	calls  map[string]int
	mu     sync.Mutex
}

// ID of the image.
var ID = digest.FromString("img")

// NewImages keeps its roots below dir.
func NewImages(dir string) *Images {
	return &Images{Dir: dir, OS: "linux", Config: images.RunConfig{ImageConfig: ocispec.ImageConfig{
		Cmd: []string{"hang"}, Env: []string{"PATH=/bin", "FROM=image"}, Labels: map[string]string{"from": "image"},
	}}}
}

func (s *Images) fail(method string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		s.calls = map[string]int{}
	}
	s.calls[method]++
	return s.Fail[method]
}

// Get knows "img" and its id.
func (s *Images) Get(_ context.Context, ref string, _ *ocispec.Platform) (*images.Image, error) {
	if err := s.fail("Get"); err != nil {
		return nil, err
	}
	if ref != "img" && ref != ID.String() {
		return nil, fmt.Errorf("No such image: %s: %w", ref, errdefs.ErrNotFound) //nolint:staticcheck // Docker's words
	}
	img := &images.Image{ID: ID, Names: []string{"img:latest"}}
	img.Config.OS, img.Config.Architecture, img.Config.Config = s.OS, "amd64", s.Config
	return img, nil
}

// Prepare makes a root.
func (s *Images) Prepare(_ context.Context, key string, _ *images.Image, confine func(dirs ...string) error) ([]images.Mount, error) {
	if err := s.fail("Prepare"); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(s.Dir, key), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("root %s: %w", key, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return nil, err
	}
	if confine != nil {
		if err := confine(filepath.Join(s.Dir, key)); err != nil {
			return nil, errors.Join(err, f.Close(), os.Remove(filepath.Join(s.Dir, key)))
		}
	}
	return []images.Mount{{Type: "overlay", Source: "overlay"}}, f.Close()
}

// Mounts knows what Prepare made.
func (s *Images) Mounts(_ context.Context, key string) ([]images.Mount, error) {
	if err := s.fail("Mounts"); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(s.Dir, key)); err != nil {
		return nil, fmt.Errorf("root %s: %w", key, errdefs.ErrNotFound)
	}
	return []images.Mount{{Type: "overlay", Source: "overlay"}}, nil
}

// Release is idempotent.
func (s *Images) Release(_ context.Context, key string) error {
	if err := s.fail("Release"); err != nil {
		return err
	}
	err := os.Remove(filepath.Join(s.Dir, key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Roots lists the directory.
func (s *Images) Roots(context.Context) ([]string, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, en := range entries {
		out = append(out, en.Name())
	}
	return out, err
}

// RootUsage is made up.
func (s *Images) RootUsage(context.Context, string) (int64, error) { return 42, s.fail("RootUsage") }

// List has the one image.
func (s *Images) List(ctx context.Context, _ images.ListOptions) ([]*images.Image, error) {
	img, err := s.Get(ctx, "img", nil)
	return []*images.Image{img}, err
}

// DiskUsage is made up.
func (s *Images) DiskUsage(context.Context) (int64, error) { return 4242, nil }

// Commit keeps the layer.
func (s *Images) Commit(_ context.Context, o images.CommitOptions, layer io.Reader) (*images.Image, error) {
	var err error
	s.Layer, err = io.ReadAll(layer)
	return &images.Image{ID: digest.FromString(o.Ref)}, err
}

// Delete refuses while containers use the image.
func (s *Images) Delete(_ context.Context, ref string, force, _ bool, users func(digest.Digest) []string) ([]images.Deleted, error) {
	if u := users(ID); len(u) > 0 && !force {
		return nil, fmt.Errorf("image %s is used by %v: %w", ref, u, errdefs.ErrConflict)
	}
	return []images.Deleted{{Untagged: "img:latest"}, {Deleted: ID.String()}}, nil
}

// Network hands out addresses on one bridge, has networks that nobody is on, and remembers who has one in a file, so that a
// test sees what a crashed engine left.
type Network struct {
	Dir  string
	Fail map[string]error // by method
	mu   sync.Mutex
	next byte
	made []network.Network
}

// Attach gives every container an address.
func (n *Network) Attach(_ context.Context, r network.Request) (*network.Attachment, *network.Netns, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.Fail["Attach"]; err != nil {
		return nil, nil, err
	}
	n.next++
	a := &network.Attachment{Container: r.Container, Mode: r.Mode, SandboxID: "sandbox-" + r.Container}
	if r.Mode == "bridge" {
		addr := netip.AddrFrom4([4]byte{10, 0, 0, n.next})
		a.Endpoints = []network.Endpoint{{Network: "bridge", NetworkID: "netid", EndpointID: "ep", IPv4: netip.PrefixFrom(addr, 16), MAC: "02:00:00:00:00:01"}}
		a.Ports = r.Ports
	}
	return a, &network.Netns{Path: "/proc/self/ns/net"}, n.mark(r.Container)
}

func (n *Network) mark(id string) error {
	if err := os.MkdirAll(n.Dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.Dir, id), nil, 0o600)
}

// Release is idempotent.
func (n *Network) Release(_ context.Context, a *network.Attachment) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.Fail["Release"]; err != nil {
		return err
	}
	err := os.Remove(filepath.Join(n.Dir, a.Container))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Restore drops what is not live.
func (n *Network) Restore(_ context.Context, live []*network.Attachment, _ func(string) string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	ids := n.held()
	for _, id := range ids {
		if !slices.ContainsFunc(live, func(a *network.Attachment) bool { return a.Container == id }) {
			if err := os.Remove(filepath.Join(n.Dir, id)); err != nil {
				return err
			}
		}
	}
	for _, a := range live {
		if err := n.mark(a.Container); err != nil {
			return err
		}
	}
	return nil
}

// Held lists the containers with an attachment.
func (n *Network) Held() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held()
}

func (n *Network) held() (out []string) {
	entries, _ := os.ReadDir(n.Dir) // missing: nobody was ever attached
	for _, en := range entries {
		out = append(out, en.Name())
	}
	return out
}

// WriteFiles writes the container's host name.
func (n *Network) WriteFiles(dir string, r network.Request, _ *network.Attachment) error {
	return os.WriteFile(filepath.Join(dir, "hostname"), []byte(r.Hostname+"\n"), 0o644)
}

// RewriteFiles leaves them as they are.
func (n *Network) RewriteFiles(string, network.Request, *network.Attachment, *network.Attachment) error {
	return nil
}

// NetworksFor lists those that were made, a tenant's only its own.
func (n *Network) NetworksFor(tenant string) []network.Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := []network.Network{{ID: "netid", Name: "bridge", Driver: "bridge", Tenant: tenant}}
	for _, m := range n.made {
		if tenant == "" || m.Tenant == tenant {
			out = append(out, m)
		}
	}
	return out
}

// Create keeps a network in memory.
func (n *Network) Create(_ context.Context, r network.CreateRequest, note func(network.Network) error) (network.Network, error) {
	sum := sha256.Sum256([]byte(r.Tenant + "/" + r.Name))
	m := network.Network{ID: hex.EncodeToString(sum[:]), Name: r.Name, Driver: "bridge", Tenant: r.Tenant, Labels: r.Labels, Made: true}
	if slices.ContainsFunc(n.NetworksFor(""), func(o network.Network) bool { return o.ID == m.ID }) {
		return m, fmt.Errorf("network with name %s already exists: %w", r.Name, errdefs.ErrConflict)
	}
	if err := note(m); err != nil {
		return m, err
	}
	if err := n.Fail["Create"]; err != nil {
		return m, err
	}
	n.Load(m)
	return m, nil
}

// Load keeps it, too.
func (n *Network) Load(m network.Network) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.made = append(n.made, m)
}

// Remove forgets one.
func (n *Network) Remove(_ context.Context, id string, gone func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.made = slices.DeleteFunc(n.made, func(m network.Network) bool { return m.ID == id })
	return gone()
}

// Connect adds an endpoint to what the container has.
func (n *Network) Connect(_ context.Context, r network.Request, id string) (*network.Attachment, error) {
	a := &network.Attachment{Container: r.Container, Mode: r.Mode}
	a.Endpoints = []network.Endpoint{{Network: "bridge", NetworkID: "netid"}, {Network: id, NetworkID: id}}
	return a, n.Fail["Connect"]
}

// Disconnect leaves the bridge.
func (n *Network) Disconnect(_ context.Context, container, _ string) (*network.Attachment, error) {
	return &network.Attachment{Container: container, Endpoints: []network.Endpoint{{Network: "bridge", NetworkID: "netid"}}}, n.Fail["Disconnect"]
}

// Rename does nothing.
func (n *Network) Rename(context.Context, string, string, string) (*network.Attachment, error) {
	return nil, nil
}

// Warnings has one.
func (n *Network) Warnings() []string { return []string{"This network is not one."} }

// Launcher has one fake backend in this process. Kill it to see it launched
// again: its containers go on.
type Launcher struct {
	Options fake.Options
	mu      sync.Mutex
	current *Process
	// Launches counts.
	Launches int
}

// Process is a fake backend as the engine sees one.
type Process struct {
	*fake.Backend
	done chan struct{}
	once sync.Once
}

// Done is closed by Kill.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID is none of its own.
func (p *Process) PID() int { return 0 }

// Disconnect does nothing.
func (p *Process) Disconnect() error { return nil }

// Discover finds the one.
func (l *Launcher) Discover() ([]engine.BackendBinary, error) {
	return []engine.BackendBinary{{Name: "fake", Path: "fake"}}, nil
}

// Launch makes a fake, or finds the one that runs.
func (l *Launcher) Launch(context.Context, engine.BackendBinary) (engine.BackendProcess, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil {
		return l.current, nil
	}
	b, err := fake.New(l.Options)
	if err != nil {
		return nil, err
	}
	l.Launches++
	l.current = &Process{Backend: b, done: make(chan struct{})}
	return l.current, nil
}

// Current is the running fake.
func (l *Launcher) Current() *Process {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// Kill ends the backend's process as SIGKILL would; with Options.StateFile its
// containers go on in the next one.
func (l *Launcher) Kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.current; p != nil {
		_ = p.Shutdown() // of goroutines; it cannot fail
		p.once.Do(func() { close(p.done) })
		l.current = nil
	}
}

// Dump is v as JSON, for messages.
func Dump(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

package testimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Config is what an image is run with.
type Config struct {
	Ref        string // familiar name, say busybox:latest
	Cmd        []string
	Entrypoint []string
	Env        []string
	User       string
	WorkingDir string
	Labels     map[string]string
	Ports      []string
	Volumes    []string
	StopSignal string
}

// File is one entry of a layer that a test writes out.
type File struct {
	Name string
	Mode int64
	Data string // of a regular file
	Link string // target of a symlink
	UID  int
	GID  int
}

// needs skips the test with a reason when a tool of Debian's is not there.
func needs(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (make deps installs it)", tool)
		}
	}
}

// Busybox writes an OCI archive of Debian's static busybox with all its
// applets, and returns its path. extra files come on top.
func Busybox(t testing.TB, c Config, extra ...File) string {
	t.Helper()
	needs(t, "busybox")
	exe, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	applets, err := exec.Command(exe, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := []File{
		{Name: "bin/", Mode: 0o755}, {Name: "bin/busybox", Mode: 0o755, Data: string(data)},
		{Name: "etc/", Mode: 0o755},
		{Name: "etc/passwd", Mode: 0o644, Data: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\ntester:x:1000:1001:Test:/home/tester:/bin/sh\n"},
		{Name: "etc/group", Mode: 0o644, Data: "root:x:0:\nnogroup:x:65534:\ntester:x:1001:\nstaff:x:50:tester\n"},
		{Name: "root/", Mode: 0o700}, {Name: "tmp/", Mode: 0o1777},
		{Name: "home/", Mode: 0o755}, {Name: "home/tester/", Mode: 0o755, UID: 1000, GID: 1001},
	}
	for _, a := range strings.Fields(string(applets)) {
		if a != "busybox" {
			files = append(files, File{Name: "bin/" + a, Link: "busybox"})
		}
	}
	if c.Ref == "" {
		c.Ref = "busybox:latest"
	}
	if c.Cmd == nil {
		c.Cmd = []string{"sh"}
	}
	path := filepath.Join(t.TempDir(), "busybox.tar")
	if err := writeArchive(path, c, tarOf(append(files, extra...))); err != nil {
		t.Fatal(err)
	}
	return path
}

// DebianPackages are in the image that Debian makes.
var DebianPackages = []string{"python3", "git", "gcc", "libc6-dev", "ca-certificates"}

// LargePackages make Large large.
var LargePackages = append([]string{"g++", "golang-go"}, DebianPackages...)

// Debian returns the path of an OCI archive of Debian with DebianPackages. It is
// made by debootstrap once and cached by what it is made of.
func Debian(t testing.TB) string {
	t.Helper()
	return debian(t, "debian-dev:latest", DebianPackages, []string{"."})
}

// Large is Debian with a compiler or two, about 700 MB in four layers.
func Large(t testing.TB) string {
	t.Helper()
	const arch, golang = "./usr/lib/x86_64-linux-gnu", "./usr/lib/go-1.19 ./usr/share/go-1.19"
	return debian(t, "large:latest", LargePackages, []string{
		"--exclude=./usr/lib/* --exclude=./usr/share/go-1.19 .", arch, golang, "--exclude=" + arch + " --exclude=./usr/lib/go-1.19 ./usr/lib",
	})
}

// StackPackages make what a web application of several services needs.
var StackPackages = []string{"nginx-light", "postgresql", "python3", "python3-psycopg2", "python3-redis", "redis-server"}

// Stack is Debian with servers: nginx, PostgreSQL with pgbench, Redis and Python
// with clients of both.
func Stack(t testing.TB) string {
	t.Helper()
	return debian(t, "stack:latest", StackPackages, []string{
		"--exclude=./usr/share/doc/* --exclude=./usr/share/man/* --exclude=./usr/share/locale/* --exclude=./var/lib/apt/lists/* --exclude=./var/lib/postgresql/15/* .",
	})
}

// debian makes an image of the packages; each layer is what tar is told to pack.
func debian(t testing.TB, ref string, packages, layers []string) string {
	t.Helper()
	needs(t, "debootstrap")
	if os.Geteuid() != 0 {
		t.Skip("needs root: debootstrap")
	}
	const suite = "bookworm"
	dir, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(ref, ":")
	sum := sha256.Sum256([]byte(suite + strings.Join(packages, ",") + strings.Join(layers, ",") + "v1"))
	path := filepath.Join(dir, name+"-"+hex.EncodeToString(sum[:6])+".tar")
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		return path
	}
	root := filepath.Join(t.TempDir(), "debian")
	cmd := exec.Command("debootstrap", "--variant=minbase", "--include="+strings.Join(packages, ","), suite, root)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debootstrap: %v\n%s", err, out[max(0, len(out)-2000):])
	}
	var readers []io.Reader
	for _, what := range layers {
		readers = append(readers, &tarOutput{root: root, what: what})
	}
	config := Config{Ref: ref, Cmd: []string{"bash"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}
	if err := writeArchive(path, config, readers...); err != nil {
		t.Fatal(err)
	}
	return path
}

// tarOutput runs tar on its first read.
type tarOutput struct {
	root, what string
	out        io.Reader
	cmd        *exec.Cmd
}

func (o *tarOutput) Read(p []byte) (int, error) {
	if o.cmd == nil {
		args := append([]string{"-C", o.root, "--numeric-owner", "--xattrs", "--exclude=./var/cache/apt/archives/*.deb", "--exclude=./dev/*", "-cf", "-"}, strings.Fields(o.what)...)
		o.cmd = exec.Command("tar", args...)
		o.cmd.Stderr = os.Stderr
		out, err := o.cmd.StdoutPipe()
		if err != nil {
			return 0, err
		}
		o.out = out
		if err := o.cmd.Start(); err != nil {
			return 0, err
		}
	}
	n, err := o.out.Read(p)
	if err == io.EOF {
		if werr := o.cmd.Wait(); werr != nil {
			return n, werr
		}
	}
	return n, err
}

// CacheDir is where what is slow to make is kept, by content hash.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = "/var/cache"
	}
	dir := filepath.Join(base, "caisson-test")
	return dir, os.MkdirAll(dir, 0o755)
}

// tarOf is the layer of a list of files.
func tarOf(files []File) io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Mode: f.Mode, Size: int64(len(f.Data)), Uid: f.UID, Gid: f.GID}
		switch {
		case strings.HasSuffix(f.Name, "/"):
			h.Typeflag = tar.TypeDir
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		}
		// Writes to a buffer do not fail; a bad header is a bug of the test.
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		if _, err := io.WriteString(w, f.Data); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return &b
}

// writeArchive packs layers as an OCI archive at path, whole or not at all.
func writeArchive(path string, c Config, layers ...io.Reader) error {
	tmp, err := os.MkdirTemp(filepath.Dir(path), ".layout")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	l := layout{dir: tmp}
	if err := l.image(c, layers); err != nil {
		return err
	}
	archive, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	defer archive.Close()
	w := tar.NewWriter(archive)
	if err := w.AddFS(os.DirFS(tmp)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// layout writes an OCI image layout into a directory.
type layout struct{ dir string }

func (l layout) blob(mediaType string, data []byte) (ocispec.Descriptor, error) {
	d := digest.FromBytes(data)
	dir := filepath.Join(l.dir, "blobs/sha256")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}, os.WriteFile(filepath.Join(dir, d.Encoded()), data, 0o644)
}

func (l layout) json(mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return l.blob(mediaType, data)
}

// gzipped stores a layer and returns its descriptor and its diff id.
func (l layout) gzipped(layer io.Reader) (ocispec.Descriptor, digest.Digest, error) {
	dir := filepath.Join(l.dir, "blobs/sha256")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return ocispec.Descriptor{}, "", err
	}
	f, err := os.CreateTemp(dir, "layer")
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	defer f.Close()
	packed, plain := digest.SHA256.Digester(), digest.SHA256.Digester()
	z, err := gzip.NewWriterLevel(io.MultiWriter(f, packed.Hash()), gzip.DefaultCompression)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	if _, err := io.Copy(io.MultiWriter(z, plain.Hash()), layer); err != nil {
		return ocispec.Descriptor{}, "", err
	}
	if err := z.Close(); err != nil {
		return ocispec.Descriptor{}, "", err
	}
	fi, err := f.Stat()
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: packed.Digest(), Size: fi.Size()}
	return d, plain.Digest(), os.Rename(f.Name(), filepath.Join(dir, d.Digest.Encoded()))
}

func (l layout) image(c Config, layers []io.Reader) error {
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		Config: ocispec.ImageConfig{
			Cmd: c.Cmd, Entrypoint: c.Entrypoint, Env: c.Env, User: c.User, WorkingDir: c.WorkingDir,
			Labels: c.Labels, StopSignal: c.StopSignal, ExposedPorts: set(c.Ports), Volumes: set(c.Volumes),
		},
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	var descs []ocispec.Descriptor
	for _, layer := range layers {
		desc, diffID, err := l.gzipped(layer)
		if err != nil {
			return err
		}
		descs = append(descs, desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		config.History = append(config.History, ocispec.History{CreatedBy: "test image " + c.Ref})
	}
	configDesc, err := l.json(ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return err
	}
	manifest, err := l.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configDesc, Layers: descs,
	})
	if err != nil {
		return err
	}
	_, tag, _ := strings.Cut(c.Ref, ":")
	manifest.Annotations = map[string]string{
		"io.containerd.image.name": "docker.io/library/" + c.Ref,
		ocispec.AnnotationRefName:  tag,
	}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{manifest},
	})
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		ocispec.ImageIndexFile:  index,
		ocispec.ImageLayoutFile: []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`),
	} {
		if err := os.WriteFile(filepath.Join(l.dir, name), data, fs.FileMode(0o644)); err != nil {
			return err
		}
	}
	return nil
}

func set(keys []string) map[string]struct{} {
	if keys == nil {
		return nil
	}
	m := map[string]struct{}{}
	for _, k := range keys {
		m[k] = struct{}{}
	}
	return m
}

// Push copies an OCI archive into a registry with skopeo.
func Push(t testing.TB, archive, ref string) {
	t.Helper()
	needs(t, "skopeo")
	out, err := exec.Command("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", "oci-archive:"+archive, "docker://"+ref).CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo copy to %s: %v\n%s", ref, err, out)
	}
}

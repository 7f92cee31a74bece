package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// tool runs a program that must succeed.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	harness.Need(t, name)
	r := harness.DoWithin(t, exec.Command(name, args...), slow)
	if r.Code != 0 {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.Stdout)
}

// layered makes an image of two layers with a changed, a removed and a
// special file, and a command that shows them.
func layered(t *testing.T, c client, name string) {
	t.Helper()
	c.must(t, "run", "--name", "layered", "--network", "none", "busybox", "sh", "-ec",
		"echo changed >/etc/group; rm -r /home/tester; mkdir -p /d/e; ln -s ../x /d/l; ln /bin/busybox /d/hard; mkfifo /d/fifo; chown 7:8 /d/e; chmod 2750 /d/e")
	c.must(t, "commit", "-c", `CMD ["sh","-c","cat /etc/group; ls /home; stat -c '%n %F %a %u:%g' /d/*; readlink /d/l"]`, "-c", "ENV MADE=yes", "layered", name)
	c.must(t, "rm", "layered")
}

var layeredSays = strings.TrimSpace(`
changed
/d/e directory 2750 7:8
/d/fifo fifo 644 0:0
/d/hard regular file 755 0:0
/d/l symbolic link 777 0:0
../x`)

func wantLayered(t *testing.T, c client, name string) {
	t.Helper()
	c.want(t, "^"+regexp.QuoteMeta(layeredSays)+"$", "run", "--rm", "--network", "none", name)
	c.want(t, "MADE=yes", "image", "inspect", "-f", "{{.Config.Env}}", name)
}

// Archives go from Docker to us and back, and to Debian's other tools.
func TestArchivesBothWays(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	harness.Need(t, "dockerd", "docker", "skopeo")
	e := busybox(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	oci := testimage.Busybox(t, testimage.Config{})
	tool(t, "skopeo", "copy", "--quiet", "oci-archive:"+oci, "docker-archive:"+in("busybox.tar")+":busybox:latest")
	theirs := docker(t, harness.Dockerd(t))
	theirs.must(t, "load", "-i", in("busybox.tar"))
	layered(t, theirs, "from/docker:1")
	theirs.must(t, "tag", "from/docker:1", "from/docker:2")
	theirs.must(t, "save", "-o", in("docker.tar"), "from/docker:1", "from/docker:2", "busybox:latest")

	each(t, e, func(t *testing.T, c client) {
		harness.Run(t, "docker save, load here", func(t *testing.T) {
			c.want(t, `(?s)Loaded image: from/docker:1.*Loaded image: from/docker:2`, "load", "-i", in("docker.tar"))
			wantLayered(t, c, "from/docker:2")
			if got, want := c.must(t, "image", "inspect", "-f", "{{.RootFS.Layers}}", "from/docker:1"), theirs.must(t, "image", "inspect", "-f", "{{.RootFS.Layers}}", "from/docker:1"); got != want {
				t.Errorf("layers %s, docker has %s", got, want)
			}
			c.must(t, "rmi", "from/docker:1", "from/docker:2")
		})
		harness.Run(t, "save here, load elsewhere", func(t *testing.T) {
			ours := "from/ours:" + c.name
			layered(t, c, ours)
			defer c.must(t, "rmi", ours)
			archive := in(c.name + ".tar")
			c.must(t, "save", "-o", archive, ours, "busybox")
			theirs.want(t, "Loaded image: "+ours, "load", "-i", archive)
			wantLayered(t, theirs, ours)
			theirs.must(t, "rmi", ours)

			one := in(c.name + "-one.tar")
			c.must(t, "save", "-o", one, ours)
			for _, format := range []string{"docker-archive", "oci-archive"} {
				layout := in(c.name + "-" + format)
				tool(t, "skopeo", "copy", "--quiet", format+":"+one, "oci:"+layout+":x")
				if got, want := tool(t, "skopeo", "inspect", "--config", "--format", "{{.RootFS.DiffIDs}}", "oci:"+layout+":x"), c.must(t, "image", "inspect", "-f", "{{.RootFS.Layers}}", ours); got != want {
					t.Errorf("%s: skopeo sees layers %s, here are %s", format, got, want)
				}
				// And from skopeo back.
				back := in(c.name + "-" + format + "-back.tar")
				tool(t, "skopeo", "copy", "--quiet", "oci:"+layout+":x", format+":"+back+":back/from:skopeo")
				c.want(t, `Loaded image`, "load", "-i", back)
				wantLayered(t, c, "back/from:skopeo")
				c.must(t, "rmi", "back/from:skopeo")
			}
		})
		harness.Run(t, "export and import", func(t *testing.T) {
			layered(t, theirs, "exported:1")
			theirs.must(t, "create", "--name", "exported", "exported:1")
			theirs.must(t, "export", "-o", in("exported.tar"), "exported")
			theirs.must(t, "rm", "exported")
			show := []string{"sh", "-c", "cat /etc/group; ls /home; stat -c '%n %F %a %u:%g' /d/*; readlink /d/l"}
			c.must(t, "import", in("exported.tar"), "imported:1")
			c.want(t, "^"+regexp.QuoteMeta(layeredSays)+"$", append([]string{"run", "--rm", "--network", "none", "imported:1"}, show...)...)
			c.must(t, "create", "--name", "again", "imported:1", "sh")
			c.must(t, "export", "-o", in("again.tar"), "again")
			c.must(t, "rm", "again")
			c.must(t, "rmi", "imported:1")
			theirs.must(t, "import", in("again.tar"), "again:1")
			theirs.want(t, "^"+regexp.QuoteMeta(layeredSays)+"$", append([]string{"run", "--rm", "--network", "none", "again:1"}, show...)...)
			theirs.must(t, "rmi", "again:1", "exported:1")
		})
		harness.Run(t, "packed", func(t *testing.T) {
			for _, pack := range [][]string{{"gzip"}, {"zstd", "-q"}} {
				harness.Need(t, pack[0])
				f, err := os.Open(in("busybox.tar"))
				if err != nil {
					t.Fatal(err)
				}
				packer := exec.Command(pack[0], append(pack[1:], "-c")...)
				packer.Stdin = f
				load := c.command("load", "-q")
				if load.Stdin, err = packer.StdoutPipe(); err != nil {
					t.Fatal(err)
				}
				if err := packer.Start(); err != nil {
					t.Fatal(err)
				}
				if r := harness.Do(t, load); r.Code != 0 || !strings.Contains(r.Stdout, "Loaded image: busybox:latest") {
					t.Fatalf("%s: %v", pack[0], r)
				}
				if err := packer.Wait(); err != nil {
					t.Error(err)
				}
				f.Close()
			}
		})
	})
}

// Podman, another engine with an image store of its own, reads what we save.
func TestPodmanLoads(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	harness.Need(t, "podman")
	e := busybox(t)
	c := clients(t, e)[0]
	layered(t, c, "from/ours:1")
	archive := filepath.Join(t.TempDir(), "ours.tar")
	c.must(t, "save", "-o", archive, "from/ours:1")
	root, err := os.MkdirTemp("/var/tmp", "caisson-podman")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	podman := func(args ...string) string {
		t.Helper()
		return tool(t, "podman", append([]string{"--root", root + "/root", "--runroot", root + "/run", "--storage-driver", "vfs"}, args...)...)
	}
	if out := podman("load", "-i", archive); !strings.Contains(out, "from/ours:1") {
		t.Errorf("podman load said %q", out)
	}
	if out := podman("image", "inspect", "-f", "{{.Config.Env}}", "from/ours:1"); !strings.Contains(out, "MADE=yes") {
		t.Errorf("podman sees the environment %s", out)
	}
}

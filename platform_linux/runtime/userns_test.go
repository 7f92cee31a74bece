//go:build linux

package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func withUserNS(o *CreateOptions) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	o.Spec.Linux.UIDMappings, o.Spec.Linux.GIDMappings = ids, ids
	o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.TimeNamespace})
}

// overlayRoot makes an overlay of layers on a disk.
func overlayRoot(t testing.TB) ([]Mount, string) {
	t.Helper()
	dir := t.TempDir()
	// As the engine's: not for others to enter.
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"upper", "work", "l1"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "l1/marker"), "one")
	return []Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + filepath.Join(dir, "l1") + ":" + busybox(t), "upperdir=" + filepath.Join(dir, "upper"), "workdir=" + filepath.Join(dir, "work"),
	}}}, filepath.Join(dir, "upper")
}

func TestOverlay(t *testing.T) {
	g := newRig(t)
	rootfs, upper := overlayRoot(t)
	res := g.run(CreateOptions{Spec: ordinary("", "/bin/sh", "-c", "cat /marker; echo x > /made; stat -c %u /bin/busybox"), Rootfs: rootfs})
	if res.err != nil || res.out != "one0\n" {
		t.Errorf("got %+v: %v", res, res.err)
	}
	if _, err := os.Stat(filepath.Join(upper, "made")); err != nil {
		t.Error(err)
	}
}

// TestUserNamespace runs in a mapped user namespace on an image whose files
// belong to the host's root.
func TestUserNamespace(t *testing.T) {
	g := newRig(t)
	if !ProbeFeatures().UserNS {
		t.Skip("needs user namespaces")
	}
	rootfs, upper := overlayRoot(t)
	hidden := t.TempDir()
	write(t, filepath.Join(hidden, "file"), "bound")
	script := strings.Join([]string{
		"id -u", "cat /proc/self/uid_map", "stat -c %u /bin/busybox", "touch /made && stat -c %u /made",
		"cat /v/file; stat -c %u /v/file", "(echo x > /v/file) 2>/dev/null || echo denied",
		"stat -c %u /w/file; touch /w/new && echo writable",
		"echo x > /dev/null && head -c1 /dev/zero | wc -c", "hostname", "mount -t tmpfs none /tmp 2>/dev/null || echo no mount",
		"echo hi > /dev/stdout", "cat /proc/sys/net/ipv4/ip_forward; wc -c < /proc/uptime",
	}, "\n")
	o := CreateOptions{Key: "u", Spec: ordinary("", "/bin/sh", "-c", script), Rootfs: rootfs}
	withUserNS(&o)
	o.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	o.Spec.Linux.MaskedPaths = append(o.Spec.Linux.MaskedPaths, "/proc/uptime")
	o.Spec.Mounts = append(o.Spec.Mounts,
		specs.Mount{Destination: "/v", Type: "bind", Source: hidden, Options: []string{"rbind", "rprivate"}},
		specs.Mount{Destination: "/w", Type: "bind", Source: hidden, Options: []string{"rbind", "rprivate", "idmap"}})
	res := g.run(o)
	want := "0\n         0     100000      65536\n0\n0\nbound65534\ndenied\n0\nwritable\n1\nbox\nno mount\nhi\n1\n0\n"
	if res.err != nil || res.out != want {
		t.Errorf("got %+v: %v\nwant %q", res, res.err, want)
	}
	info, err := os.Stat(filepath.Join(upper, "made"))
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		t.Errorf("on disk the file is owned by %d", uid)
	}
	// Exec, with and without a terminal.
	rootfs, _ = overlayRoot(t)
	c := g.running(withUserNS, func(o *CreateOptions) { o.Rootfs = rootfs })
	if res := g.exec(c, nil, "/bin/sh", "-c", "id -u; cat /proc/self/uid_map; echo hi > /dev/stdout; touch /x && echo made"); res.out != "0\n         0     100000      65536\nhi\nmade\n" {
		t.Errorf("exec: %+v: %v", res, res.err)
	}
	x := ordinary("/", "/bin/sh", "-c", "tty").Process
	x.Terminal = true
	q, err := g.r.Exec(g.ctx(), ExecOptions{Key: "running/tty", Container: c, Process: x})
	if err == nil {
		err = q.Start(g.ctx())
	}
	if err != nil {
		t.Fatal(err)
	}
	talk(t, q, "/dev/pts/0\r\nword\r\n")
}

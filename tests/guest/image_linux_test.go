package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caisson-engine/caisson/tests/testimage"
)

// Lines with these prefixes cut the guest's output.
const (
	mark     = "@@guest "
	exitMark = "@@exit "
)

// kernel is Debian's cloud kernel, extracted, not installed.
type kernel struct {
	version string
	image   string // bzImage
	modules string // …/lib/modules/<version>, with modules.dep
	initrd  string // loads what the disk needs and switches to it
}

// debianKernel downloads the kernel once and keeps it.
func debianKernel(t *testing.T) kernel {
	t.Helper()
	cache, err := testimage.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("apt-cache", "depends", "linux-image-cloud-amd64").Output()
	if err != nil {
		t.Skipf("needs Debian's package index: apt-cache: %v", err)
	}
	pkg := regexp.MustCompile(`linux-image-\S+-cloud-amd64`).FindString(strings.ReplaceAll(string(out), "linux-image-cloud-amd64", ""))
	if pkg == "" {
		t.Skipf("Debian's package index has no cloud kernel for amd64: %s", out)
	}
	k := kernel{version: strings.TrimPrefix(pkg, "linux-image-")}
	root := filepath.Join(cache, pkg)
	k.image = filepath.Join(root, "boot", "vmlinuz-"+k.version)
	k.modules = filepath.Join(root, "lib/modules", k.version)
	k.initrd = filepath.Join(t.TempDir(), "initrd")
	if _, err := os.Stat(root); err != nil {
		extract(t, pkg, root, k.version)
	}
	initrd(t, k)
	return k
}

func extract(t *testing.T, pkg, root, version string) {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(root), "kernel")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	download := exec.Command("apt-get", "download", pkg)
	download.Dir = dir
	if out, err := download.CombinedOutput(); err != nil {
		t.Skipf("cannot download %s: %v: %s", pkg, err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("apt-get download left %v, %v", debs, err)
	}
	run(t, "dpkg-deb", "-x", debs[0], filepath.Join(dir, "x"))
	run(t, "busybox", "depmod", "-b", filepath.Join(dir, "x"), version)
	if err := os.Rename(filepath.Join(dir, "x"), root); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, tail(out, 3000))
	}
}

// needed lists a module's files below /lib/modules/<version>, dependencies first.
func (k kernel) needed(t *testing.T, names ...string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		t.Fatal(err)
	}
	deps := map[string][]string{}
	files := map[string]string{}
	for line := range strings.Lines(string(data)) {
		file, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		deps[file] = strings.Fields(rest)
		files[strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")] = file
	}
	var order []string
	var add func(file string)
	add = func(file string) {
		if slices.Contains(order, file) {
			return
		}
		for _, d := range deps[file] {
			add(d)
		}
		order = append(order, file)
	}
	for _, n := range names {
		file, ok := files[n]
		if !ok {
			t.Fatalf("kernel %s has no module %s", k.version, n)
		}
		add(file)
	}
	return order
}

// initrd makes the small root that finds the disk.
func initrd(t *testing.T, k kernel) {
	t.Helper()
	dir := t.TempDir()
	busybox(t, filepath.Join(dir, "bin"), "sh", "mount", "insmod", "switch_root", "sleep")
	var load strings.Builder
	for _, file := range k.needed(t, "virtio_pci", "virtio_blk", "quota_v2") {
		to := filepath.Base(file)
		copyFile(t, filepath.Join(k.modules, file), filepath.Join(dir, to), 0o644)
		fmt.Fprintf(&load, "insmod /%s\n", to)
	}
	write(t, filepath.Join(dir, "init"), `#!/bin/sh
mount -t devtmpfs dev /dev
`+load.String()+`
until [ -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 -o prjquota /dev/vda /root
mount --move /dev /root/dev
exec switch_root /root /init
`)
	for _, d := range []string{"dev", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-c", `find . | cpio -o -H newc --quiet >"$1"`, "sh", k.initrd)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
}

// guestModules are those that no one in the guest asks for by name.
var guestModules = []string{"overlay", "bridge", "br_netfilter", "veth", "nf_tables", "nf_conntrack", "nft_chain_nat", "nft_masq", "nft_ct", "nft_nat", "virtio_net", "tun"}

// build makes the guest's disk and returns the programs that it holds: packages
// without tests, or that this tree has not, are none.
func build(t *testing.T, disk string, k kernel) []program {
	t.Helper()
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, d := range []string{"bin", "sbin", "proc", "sys", "dev", "run", "tmp", "etc", "root", "var/lib", "var/tmp", "lib/modules", "tests", "opt/caisson/bin"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox(t, filepath.Join(root, "bin"))
	for _, link := range []string{"modprobe", "init"} {
		if err := os.Symlink("../bin/busybox", filepath.Join(root, "sbin", link)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "cp", "-a", k.modules, filepath.Join(root, "lib/modules/"))
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\nnogroup:x:65534:\n")
	write(t, filepath.Join(root, "etc/resolv.conf"), "nameserver 127.0.0.1\n")
	write(t, filepath.Join(root, "etc/hostname"), "guest\n")
	write(t, filepath.Join(root, "etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")

	binaries, err := filepath.Glob(filepath.Join(top, "bin/caisson*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range binaries {
		copyFile(t, b, filepath.Join(root, "opt/caisson/bin", filepath.Base(b)), 0o755)
	}

	probe := exec.Command("go", "build", "-o", filepath.Join(root, "opt/caisson/bin/probe"), "./tests/security/probe")
	probe.Dir = top
	probe.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := probe.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v\n%s", err, out)
	}

	var present []program
	var script strings.Builder
	for _, p := range programs {
		if tests, _ := filepath.Glob(filepath.Join(top, p.pkg, "*_test.go")); len(tests) == 0 {
			continue
		}
		dir := filepath.Join("tests", p.pkg)
		cmd := exec.Command("go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(root, dir, "test"), "./"+p.pkg)
		cmd.Dir = top
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("building the tests of %s: %v\n%s", p.pkg, err, tail(out, 3000))
			continue
		}
		if _, err := os.Stat(filepath.Join(top, p.pkg, "testdata")); err == nil {
			run(t, "cp", "-a", filepath.Join(top, p.pkg, "testdata"), filepath.Join(root, dir)+"/")
		}
		fmt.Fprintf(&script, "echo '%s%s'; cd '/%s' && ./test -test.v -test.short -test.timeout=15m -test.run='%s' -test.skip='%s' 2>&1; echo \"%s$?\"\n",
			mark, p.pkg, dir, p.run, p.skip, exitMark)
		present = append(present, p)
	}
	write(t, filepath.Join(root, "init"), fmt.Sprintf(`#!/bin/sh
export PATH=/bin:/sbin HOME=/root TMPDIR=/tmp CAISSON_TEST_BIN=/opt/caisson/bin CAISSON_GUEST=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o ptmxmode=0666 pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t mqueue mqueue /dev/mqueue

mount -t tmpfs run /run
ln -s /proc/self/fd /dev/fd
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for m in %s; do modprobe $m; done
mount --make-rshared /
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
stty -F /dev/ttyS1 raw
exec >/dev/ttyS1 2>&1 </dev/null
%s
echo '%send'
sync
poweroff -f
`, strings.Join(guestModules, " "), script.String(), mark))

	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 4<<30); err != nil {
		t.Fatal(err)
	}
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal,quota,project", "-E", "lazy_itable_init=1,root_owner=0:0,quotatype=prjquota", "-d", root, disk)
	return present
}

// busybox installs the applets given, or all.
func busybox(t *testing.T, dir string, applets ...string) {
	t.Helper()
	exe, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	if len(applets) == 0 {
		out, err := exec.Command(exe, "--list").Output()
		if err != nil {
			t.Fatal(err)
		}
		applets = strings.Fields(string(out))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	copyFile(t, exe, filepath.Join(dir, "busybox"), 0o755)
	for _, a := range applets {
		if a == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(dir, a)); err != nil {
			t.Fatal(err)
		}
	}
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, mode); err != nil {
		t.Fatal(err)
	}
}

// write makes a text file that may be executed.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

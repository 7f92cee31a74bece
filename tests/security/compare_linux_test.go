package security

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// modes are the ways to run the probe; what differs from Docker must be
// expected below in each.
var modes = map[string][]string{
	"default":           nil,
	"cap-drop ALL":      {"--cap-drop", "ALL"},
	"cap-add SYS_ADMIN": {"--cap-add", "SYS_ADMIN"},
	"user 1000":         {"--user", "1000:1000"},
	"no-new-privileges": {"--security-opt", "no-new-privileges"},
	"read-only":         {"--read-only", "--tmpfs", "/tmp"},
	"unconfined":        {"--security-opt", "seccomp=unconfined"},
	"privileged":        {"--privileged"},
	"host network":      {"--network", "host"},
}

// exception is a difference from Docker that is meant.
type exception struct {
	key  string // of the probe; a trailing * is any rest
	ours string // what we must say, "" for anything
	why  string
}

var exceptions = []exception{
	{"ns/*", "", "compared with the host, not with Docker"},
	{"rlimit/*", "", "the defaults come from the daemon's own limits, which tests start differently"},
	{"propagation_/*", "", "compared by the test: nothing may be shared"},
	{"call_io_uring_setup", "EPERM", "Docker blocks it since 25.0 for its record of kernel holes"},
	{"call_socket_vsock", "EPERM", "Docker's profile blocks it since 24.0: it reaches past the network namespace"},
	{"call_socket_vsock", "EAFNOSUPPORT", "this kernel has no vsock"},
	{"read_/sys/devices/virtual/powercap", "", "masked since Docker 23.0.8: power readings leak what others compute"},
	{"read_/proc/interrupts", "", "masked since Docker 28.3: a side channel"},
	{"read_/sys/devices/system/cpu/cpu0/thermal_throttle", "", "masked since Docker 28.3: a side channel"},
	{"mount_*", "", "compared by the test: no mount may be looser"},
	{"call_process_vm_readv", "ok", "with ptrace allowed by Docker's current profile since Linux 4.8 checks it rightly"},
	{"call_name_to_handle_at", "EFAULT", "allowed by Docker's current profile: only open_by_handle_at gives access"},
}

// probeBinary is what Docker and we run.
func probeBinary(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("CAISSON_TEST_BIN"); dir != "" {
		if path := filepath.Join(dir, "probe"); exec.Command("test", "-x", path).Run() == nil {
			return path
		}
	}
	harness.Need(t, "go")
	path := filepath.Join(t.TempDir(), "probe")
	cmd := exec.Command("go", "build", "-o", path, "./probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v\n%s", err, out)
	}
	return path
}

// findings is what a probe printed.
func findings(t *testing.T, out string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		found[key] = value
	}
	if len(found) < 50 {
		t.Fatalf("the probe found only:\n%s", out)
	}
	return found
}

func probeArgs(probe string, mode []string) []string {
	args := append([]string{"run", "--rm", "-e", "CAISSON_PROBE=1", "-v", probe + ":/probe:ro"}, mode...)
	if !slices.Contains(mode, "--network") {
		args = append(args, "--network", "none")
	}
	return append(args, "busybox", "/probe")
}

func TestSameProbeInDocker(t *testing.T) {
	harness.NeedRoot(t)
	harness.Need(t, "dockerd", "docker", "skopeo")
	probe := probeBinary(t)
	e := harness.Start(t)
	archive := testimage.Busybox(t, testimage.Config{})
	e.Load(archive)

	host := harness.Dockerd(t)
	docker := func(args ...string) harness.Result {
		return harness.Do(t, exec.Command("docker", append([]string{"-H", host}, args...)...))
	}
	converted := filepath.Join(t.TempDir(), "busybox.tar")
	if out, err := exec.Command("skopeo", "copy", "--quiet", "oci-archive:"+archive, "docker-archive:"+converted+":busybox:latest").CombinedOutput(); err != nil {
		t.Fatalf("skopeo: %v\n%s", err, out)
	}
	if r := docker("load", "-i", converted); r.Code != 0 {
		t.Fatal(r)
	}
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			theirs := docker(probeArgs(probe, mode)...)
			ours := e.Caisson(probeArgs(probe, mode)...)
			if theirs.Code != 0 && ours.Code == 0 && strings.Contains(theirs.Stderr, "operation not permitted") {
				why, _, _ := strings.Cut(theirs.Stderr, "\n")
				t.Skipf("Docker cannot do this with the capabilities of this host: %s", why)
			}
			if theirs.Code != 0 || ours.Code != 0 {
				t.Fatalf("docker: %v\ncaisson: %v", theirs, ours)
			}
			compare(t, findings(t, theirs.Stdout), findings(t, ours.Stdout), mode)
		})
	}
}

func compare(t *testing.T, docker, ours map[string]string, mode []string) {
	t.Helper()
	keys := make([]string, 0, len(docker))
	for k := range docker {
		keys = append(keys, k)
	}
	for k := range ours {
		if _, ok := docker[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if docker[k] == ours[k] || tighter(k, docker[k], ours[k]) || excepted(k, ours[k]) {
			continue
		}
		t.Errorf("%s: docker %q, caisson %q", k, docker[k], ours[k])
	}
	checkNamespaces(t, ours, mode)
	checkMounts(t, docker, ours)
}

func excepted(key, ours string) bool {
	return slices.ContainsFunc(exceptions, func(e exception) bool {
		prefix, wild := strings.CutSuffix(e.key, "*")
		return (key == e.key || wild && strings.HasPrefix(key, prefix)) && (e.ours == "" || e.ours == ours)
	})
}

// harmlessAnswers give a program nothing.
var harmlessAnswers = []string{"EPERM", "EACCES", "ENOENT", "EROFS", "ENOSYS", "nothing", "empty directory", "ENXIO", "ENODEV", "EIO"}

// tighter tells whether our answer gives less than Docker's.
func tighter(key, docker, ours string) bool {
	switch {
	case strings.HasPrefix(key, "read_"), strings.HasPrefix(key, "write_"), strings.HasPrefix(key, "call_"), strings.HasPrefix(key, "open_made_"):
		// Where both refuse, the reason may differ: it says which of several
		// walls came first.
		return slices.Contains(harmlessAnswers, ours) && !essential[key]
	case strings.HasPrefix(key, "status/Cap"):
		return subset(ours, docker)
	case key == "status/NoNewPrivs", key == "status/Seccomp":
		return ours > docker
	case key == "dev":
		// runc makes the link core only where the kernel has /proc/kcore, which is
		// masked in either.
		return strings.Replace(ours, "core,", "", 1) == docker
	}
	return false
}

// essential are answers that programs rely on.
var essential = map[string]bool{
	"write_/": true, "write_/etc/hosts": true, "write_/etc/hostname": true, "write_/etc/resolv.conf": true, "write_/dev": true,
	"write_/dev/shm": true, "write_/dev/null": true, "write_/tmp": true, "call_chown": true, "call_socket_raw": true,
	"call_bind_low_port": true, "call_setuid_bit": true, "call_chroot": true,
}

// subset compares hexadecimal sets of capabilities.
func subset(a, b string) bool {
	var x, y uint64
	if n, _ := fmt.Sscanf(a+" "+b, "%x %x", &x, &y); n != 2 {
		return false
	}
	return x&^y == 0
}

// checkNamespaces wants namespaces of its own for everything but what the mode
// shares.
func checkNamespaces(t *testing.T, ours map[string]string, mode []string) {
	t.Helper()
	shared := map[string]bool{"user": true, "net": slices.Contains(mode, "host")}
	for _, ns := range []string{"pid", "mnt", "uts", "ipc", "net", "cgroup", "time"} {
		host, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			continue // this kernel has none
		}
		if (ours["ns/"+ns] == host) != shared[ns] {
			t.Errorf("%s namespace is %s, the host's is %s", ns, ours["ns/"+ns], host)
		}
	}
}

// checkMounts wants no mount with less protection than Docker gives it, and none
// that is shared with the host.
func checkMounts(t *testing.T, docker, ours map[string]string) {
	t.Helper()
	for key, value := range ours {
		if strings.HasPrefix(key, "propagation_") && value != "master" {
			t.Errorf("%s: %s", key, value)
		}
		theirs, ok := docker[key]
		if !ok || !strings.HasPrefix(key, "mount_") {
			continue
		}
		_, have, _ := strings.Cut(value, " ")
		_, want, _ := strings.Cut(theirs, " ")
		for option := range strings.SplitSeq(want, ",") {
			if option != "" && !slices.Contains(strings.Split(have, ","), option) {
				t.Errorf("%s lacks %s: docker %q, caisson %q", key, option, theirs, value)
			}
		}
	}
}

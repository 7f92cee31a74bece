package guest

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// program is a package whose tests run in the guest.
type program struct {
	pkg string
	run string // regular expression of the tests, "" for all

	skip string // regular expression of those that are not
	why  string // of a skip or a run that is not all
}

// programs are built here and run there, one after another.
var programs = []program{
	{pkg: "platform_linux/cgroup"},
	{pkg: "platform_linux/caps"},
	{pkg: "platform_linux/seccomp"},
	{pkg: "platform_linux/rootfs"},
	{pkg: "platform_linux/runtime", skip: "TestUserNamespace", why: noMappedLayers},
	{pkg: "platform_linux/keeper"},
	{pkg: "platform_linux/diskquota"},
	{pkg: "platform_linux/hostnet"},
	{pkg: "backends/linux"},
	{pkg: "tests/cli", run: "Scenarios", skip: "TestScenarios/.*/user_namespace", why: noMappedLayers},
	{pkg: "tests/security", run: "Inside", why: "Docker is not in the guest to compare with"},
}

const noMappedLayers = "the guest's Linux 6.1 cannot map the layers of an image to other users"

// timeout bounds the guest's life; it only ends one that hangs.
const timeout = 25 * time.Minute

func TestCgroupV2(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine: not with -short")
	}
	needs(t, "qemu-system-x86_64", "mke2fs", "busybox", "dpkg-deb", "apt-get", "cpio")
	disk := filepath.Join(t.TempDir(), "disk.img")
	k := debianKernel(t)
	present := build(t, disk, k)

	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	out := boot(ctx, t, k, disk)
	got := split(out)
	for _, p := range present {
		t.Run(p.pkg, func(t *testing.T) {
			text, ok := got[p.pkg]
			if !ok {
				t.Fatal("did not run: the guest ended before")
			}
			if p.why != "" {
				t.Logf("not all of it: %s", p.why)
			}
			report(t, text)
		})
	}
	if _, ok := got["end"]; !ok && ctx.Err() != nil {
		t.Errorf("the guest did not end within %v", timeout)
	}
}

func needs(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (make deps installs it)", tool)
		}
	}
}

// boot runs the guest to its end and returns what its tests printed.
func boot(ctx context.Context, t *testing.T, k kernel, disk string) []byte {
	t.Helper()
	dir := t.TempDir()
	console, results := filepath.Join(dir, "console.log"), filepath.Join(dir, "results.log")
	// Always emulated: a /dev/kvm that opens may still be slower than emulation,
	// and the point is the kernel, not speed.
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm", "-smp", "2", "-m", "2048",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", k.image, "-initrd", k.initrd,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests=1 random.trust_cpu=on",
		"-drive", "file="+disk+",if=virtio,format=raw,cache=unsafe",
		"-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0",
		"-serial", "file:"+console, "-serial", "file:"+results)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	err := cmd.Run()
	t.Logf("the guest ran for %v", time.Since(start).Round(time.Second))
	out, readErr := os.ReadFile(results)
	if readErr != nil || !bytes.Contains(out, []byte(mark+"end")) {
		log, _ := os.ReadFile(console)
		t.Errorf("the guest ended early (qemu: %v %s); its console ends with:\n%s\nand its tests with:\n%s",
			err, stderr.String(), tail(log, 3000), tail(out, 2000))
	}
	return out
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// split cuts the guest's output at its marks: package → output, and "end".
func split(out []byte) map[string]string {
	parts := map[string]string{}
	name := ""
	var text strings.Builder
	for sc := newScanner(out); sc.Scan(); {
		line := strings.TrimSuffix(sc.Text(), "\r")
		if next, ok := strings.CutPrefix(line, mark); ok {
			if name != "" {
				parts[name] = text.String()
			}
			name = next
			text.Reset()
			continue
		}
		text.WriteString(line + "\n")
	}
	if name != "" {
		parts[name] = text.String()
	}
	return parts
}

func newScanner(b []byte) *bufio.Scanner {
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 1<<20)
	return sc
}

// verdict is how go test -v ends a test; what a subtest says is indented.
var verdict = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\S+)`)

// report makes each test of a test binary's -v output one here.
func report(t *testing.T, text string) {
	var pending strings.Builder // what a test printed before its verdict
	type outcome struct{ status, output string }
	var names []string
	outcomes := map[string]*outcome{}
	var last *outcome
	for sc := newScanner([]byte(text)); sc.Scan(); {
		line := sc.Text()
		switch m := verdict.FindStringSubmatch(line); {
		case m != nil:
			last = &outcome{status: m[1], output: pending.String()}
			pending.Reset()
			outcomes[m[2]] = last
			names = append(names, m[2])
		case last != nil && strings.HasPrefix(strings.TrimSpace(line), "--- "):
			last.output += line + "\n" // of a subtest
		case strings.HasPrefix(line, "=== ") || line == "PASS" || line == "":
		default:
			pending.WriteString(line + "\n")
		}
	}
	for _, name := range names {
		o := outcomes[name]
		t.Run(name, func(t *testing.T) {
			switch o.status {
			case "FAIL":
				t.Errorf("failed in the guest:\n%s", o.output)
			case "SKIP":
				t.Skip("in the guest: " + strings.TrimSpace(o.output))
			}
		})
	}
	if !strings.Contains(text, exitMark+"0\n") {
		t.Errorf("test binary did not end well; its last words:\n%s", tail([]byte(pending.String()), 4000))
	}
}

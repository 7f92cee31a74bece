package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/testimage"
)

// peers are the engines that we are measured against.
type peers struct {
	bundle string // of runc
	docker string // host of a private dockerd, "" if there is none
	pid    int    // of dockerd
	podman func(args ...string) *exec.Cmd
}

func startPeers(t *testing.T) peers {
	p := peers{bundle: runcBundle(t)}
	archive := testimage.Busybox(t, testimage.Config{})
	if _, err := exec.LookPath("dockerd"); err == nil {
		p.dockerd(t, archive)
	}
	if _, err := exec.LookPath("podman"); err == nil {
		root, run := t.TempDir(), t.TempDir()
		podman := func(args ...string) *exec.Cmd {
			return exec.Command("podman", append([]string{"--root", root, "--runroot", run, "--runtime", "runc", "--storage-driver", "overlay"}, args...)...)
		}
		load := podman("load", "-i", archive)
		ok := load.Run() == nil && podman("run", "--rm", "--network", "none", "busybox", "true").Run() == nil
		t.Cleanup(func() {
			_ = podman("system", "reset", "--force").Run()
		})
		if ok {
			p.podman = podman
		} else {
			fmt.Println("  podman does not run containers here: not compared")
		}
	}
	return p
}

// runcBundle is busybox as runc wants it, with runc's own default spec.
func runcBundle(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "rootfs/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	exe, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"busybox", "true"} {
		if err := os.WriteFile(filepath.Join(dir, "rootfs/bin", name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("runc", "spec")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("runc spec: %v\n%s", err, out)
	}
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"true"}
	if text, err = json.Marshal(spec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// runc is one bare run.
func (p peers) runc(i int) *exec.Cmd {
	return exec.Command("runc", "run", "--bundle", p.bundle, fmt.Sprintf("caisson-bench-%d-%d", os.Getpid(), i))
}

// benchBridge is the dockerd's own bridge.
const benchBridge = "csbench0"

// dockerd starts one with a bridge of its own and without firewall rules.
func (p *peers) dockerd(t *testing.T, archive string) {
	t.Helper()
	run, err := os.MkdirTemp("/run", "csb")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.MkdirTemp("/var/tmp", "caisson-bench")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"link", "add", benchBridge, "type", "bridge"},
		{"addr", "add", "172.31.251.1/24", "dev", benchBridge},
		{"link", "set", benchBridge, "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	log, err := os.Create(filepath.Join(data, "log"))
	if err != nil {
		t.Fatal(err)
	}
	host := "unix://" + run + "/d.sock"
	cmd := exec.Command("dockerd", "--data-root", filepath.Join(data, "root"), "--exec-root", filepath.Join(run, "e"),
		"--pidfile", filepath.Join(run, "pid"), "-H", host, "--bridge", benchBridge,
		"--iptables=false", "--ip6tables=false", "--userland-proxy=false")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
		_ = exec.Command("ip", "link", "delete", benchBridge).Run()
		os.RemoveAll(data)
		os.RemoveAll(run)
	})
	p.docker, p.pid = host, cmd.Process.Pid
	for end := time.Now().Add(time.Minute); p.client("version").Run() != nil; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("dockerd does not answer:\n%s", text)
		}
	}
	// It knows only Docker's own archives.
	docker := filepath.Join(t.TempDir(), "busybox.tar")
	if out, err := exec.Command("skopeo", "copy", "--quiet", "oci-archive:"+archive, "docker-archive:"+docker+":busybox:latest").CombinedOutput(); err != nil {
		t.Fatalf("skopeo: %v\n%s", err, out)
	}
	p.must(t, "load", "-i", docker)
}

func (p peers) client(args ...string) *exec.Cmd {
	return exec.Command("docker", append([]string{"-H", p.docker}, args...)...)
}

func (p peers) must(t *testing.T, args ...string) {
	t.Helper()
	if out, err := p.client(args...).CombinedOutput(); err != nil {
		t.Fatalf("docker %v: %v\n%s", args, err, out)
	}
}

// pss sums dockerd, its containerd and its shims, in KiB.
func (p peers) pss() int {
	sum := pss(p.pid)
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || pid == p.pid || pid == os.Getpid() {
			continue
		}
		run := filepath.Dir(strings.TrimPrefix(p.docker, "unix://"))
		if name, _, _ := strings.Cut(string(cmdline), "\x00"); strings.Contains(filepath.Base(name), "containerd") && strings.Contains(string(cmdline), run) {
			sum += pss(pid)
		}
	}
	return sum
}

package tenancy

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// Users that no Debian machine has; both are in the group that the socket is of.
const (
	ada    = 61001
	bob    = 61002
	carl   = 61003 // of no tenant that has a name
	socket = 61000
)

const twoTenants = `
tenants:
  - {name: ada, uids: [61001], quota: {containers: 5}}
  - {name: bob, uids: [61002]}
shared_images: [busybox]
rules:
  - name: ada's
    match: {tenant: ada}
    defaults: {memory: 64m, pids: 50}
    allow: {capabilities: [NET_ADMIN], host_paths: ["/usr/share:ro"]}
`

// host is an engine with a policy, and its clients.
type host struct {
	*harness.Engine
	t      *testing.T
	bin    string // of the clients, where everybody may read
	policy string
}

func start(t *testing.T, policy string) *host {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "caisson-tenancy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{t: t, bin: filepath.Join(dir, "caisson"), policy: filepath.Join(dir, "policy.yaml")}
	if err := os.WriteFile(h.policy, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Engine = harness.Start(t, "--policy", h.policy, "--group", "61000")
	b, err := os.ReadFile(filepath.Join(harness.Bin(t), "caisson"))
	if err == nil {
		err = os.WriteFile(h.bin, b, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = os.Chmod(h.ExecRoot, 0o711) // as the daemon makes it; the harness's is a private directory
	}
	if err != nil {
		t.Fatal(err)
	}
	h.Load(testimage.Busybox(t, testimage.Config{Ref: "busybox:latest", Cmd: []string{"sh"}}))
	return h
}

// as runs a client as a user: "caisson" or "docker".
func (h *host) as(uid uint32, client string, args ...string) harness.Result {
	h.t.Helper()
	path := h.bin
	if client != "caisson" {
		harness.Need(h.t, client)
		path = client
	}
	cmd := exec.Command(path, append([]string{"-H", h.Host}, args...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"HOME=/nonexistent", "PATH=" + os.Getenv("PATH"), "DOCKER_BUILDKIT=0", "DOCKER_CLI_HINTS=false"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{socket}}}
	return harness.Do(h.t, cmd)
}

func (h *host) must(uid uint32, args ...string) string {
	h.t.Helper()
	r := h.as(uid, "caisson", args...)
	if r.Code != 0 {
		h.t.Fatalf("uid %d: caisson %s: %s", uid, strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.Stdout)
}

// step is a command of one user and what must come of it.
type step struct {
	uid            uint32
	args           string
	code           int
	stdout, stderr string // regular expressions
}

// Two users run containers, under the same names, with either client, and do not
// meet; what would give them the host is refused.
func TestUsersShareAnEngine(t *testing.T) {
	h := start(t, twoTenants)
	id := h.must(ada, "run", "-d", "--name", "web", "-v", "data:/data", "busybox", "sh", "-c", "echo adas-secret; echo adas-secret >/data/file; sleep 1000")
	h.must(bob, "run", "-d", "--name", "web", "-v", "data:/data", "busybox", "sleep", "1000")
	for _, client := range []string{"caisson", "docker"} {
		t.Run(client, func(t *testing.T) {
			if client == "docker" {
				harness.Need(t, "docker")
			}
			for _, s := range []step{
				{ada, "exec web cat /data/file", 0, `^adas-secret\n$`, ``},
				{bob, "exec web ls /data", 0, `^$`, ``}, // the volume of that name is bob's own
				{bob, "ps -aq --no-trunc", 0, `^[0-9a-f]{64}\n$`, ``},
				{bob, "logs " + id, 1, `^$`, `No such container`},
				{bob, "exec " + id + " true", 1, ``, `No such container`},
				{bob, "cp " + id + ":/data/file -", 1, `^$`, `No such container`},
				{bob, "rm -f " + id[:12], 0, ``, `No such container`},
				{bob, "run --rm --volumes-from " + id + " busybox cat /data/file", 125, `^$`, `No such container`},
				{bob, "run --rm --network container:" + id + " busybox true", 125, ``, `No such container`},
				{bob, "run --rm --pid container:" + id + " busybox true", 125, ``, `No such container`},
				{bob, "run --rm -v " + h.DataRoot + ":/x busybox ls /x", 125, `^$`, `no rule matches.*the host path`},
				{bob, "run --rm --privileged busybox true", 125, ``, `no rule matches, so tenant bob \(uid:61002\) may not use --privileged`},
				{ada, "run --rm --privileged busybox true", 125, ``, `rule "ada's" does not allow tenant ada`},
				{ada, "run --rm --pid host busybox true", 125, ``, `--pid host`},
				{ada, "run --rm --network host busybox true", 125, ``, `--network host`},
				{ada, "run --rm --security-opt seccomp=unconfined busybox true", 125, ``, `seccomp profile`},
				{ada, "run --rm --device /dev/null busybox true", 125, ``, `the device /dev/null`},
				{ada, "run --rm -v /usr/share:/x busybox true", 125, ``, `host_paths: \["/usr/share"\]`},
				{ada, "run --rm -v /usr/share:/x:ro busybox ls /x", 0, `doc`, ``},
				{ada, "run --rm --cap-add NET_ADMIN busybox grep CapEff /proc/self/status", 0, `CapEff:\t0*a80435fb`, ``},
				{ada, "exec --privileged web true", 1, ``, `--privileged`},
				{ada, "inspect -f {{.HostConfig.Memory}}/{{.HostConfig.PidsLimit}} web", 0, `^67108864/50\n$`, ``},
				{ada, "images --format {{.Repository}}", 0, `^busybox\n$`, ``},
				{ada, "rmi -f busybox", 1, ``, `shared by the host's owner`},
				{bob, "info --format {{.Containers}}", 0, `^1\n$`, ``},
				{0, "info --format {{.Containers}}", 0, `^2\n$`, ``}, // root sees all
			} {
				r := h.as(s.uid, client, strings.Fields(s.args)...)
				if r.Code != s.code || !regexp.MustCompile(s.stdout).MatchString(r.Stdout) || !regexp.MustCompile(s.stderr).MatchString(r.Stderr) {
					t.Errorf("uid %d: %s: want %d, %q, %q\n%s", s.uid, s.args, s.code, s.stdout, s.stderr, r)
				}
			}
		})
	}
	// Nor do they meet in the file system: /proc tells everybody what is mounted where.
	secret := filepath.Join(h.DataRoot, "tenants/ada/volumes/data/_data/file")
	if b, err := os.ReadFile(secret); err != nil || string(b) != "adas-secret\n" {
		t.Fatalf("%q %v", b, err)
	}
	root := h.Must("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", id)
	if _, err := os.Stat(root); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{secret, root} {
		cmd := exec.Command("ls", path)
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: bob, Gid: bob}}
		if r := harness.Do(t, cmd); r.Code == 0 || !strings.Contains(r.Stderr, "Permission denied") {
			t.Errorf("bob looks at %s: %s", path, r)
		}
	}
	// Who has no name is a tenant all the same, with a store of his own.
	if got := h.must(carl, "run", "--rm", "-v", "data:/data", "caisson/hello"); !strings.Contains(got, "Hello from Caisson") {
		t.Errorf("carl: %s", got)
	}
	if got := h.must(carl, "run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "ls /data; echo carl"); got != "carl" {
		t.Errorf("carl: %s", got)
	}
	for range 4 {
		h.must(ada, "create", "busybox", "true")
	}
	if r := h.as(ada, "caisson", "create", "busybox", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "quota of tenant ada: containers: 5 allowed") {
		t.Errorf("more than the quota: %s", r)
	}
	// Tenants survive a restart of the engine, and stay apart.
	h.Kill("caissond")
	h.WaitReady()
	if got := h.must(ada, "exec", "web", "cat", "/data/file"); got != "adas-secret" {
		t.Errorf("after a restart: %q", got)
	}
	if r := h.as(bob, "caisson", "inspect", id); r.Code == 0 {
		t.Errorf("after a restart: %s", r)
	}
	log, err := os.ReadFile(filepath.Join(h.DataRoot, "audit.log"))
	if err != nil || !bytes.Contains(log, []byte(`"client":"uid:61002","tenant":"bob"`)) || !bytes.Contains(log, []byte(`"outcome":"denied"`)) {
		t.Errorf("the audit log: %v %.300s", err, log)
	}
}

// A policy changed on disk holds after SIGHUP.
func TestReload(t *testing.T) {
	h := start(t, twoTenants)
	h.must(ada, "run", "-d", "--name", "net", "--cap-add", "NET_ADMIN", "busybox", "sleep", "1000")
	stricter := strings.Replace(twoTenants, "capabilities: [NET_ADMIN], ", "", 1)
	if err := os.WriteFile(h.policy, []byte(stricter), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(h.PID("caissond"), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	h.Until("the new policy holds", func() bool {
		return h.as(ada, "caisson", "policy", "explain", "--cap-add", "NET_ADMIN", "busybox").Code == 1
	})
	var v []struct{ Name, Tenant, Rule, State string }
	for line := range strings.Lines(h.Must("policy", "violations", "--format", "json")) {
		v = append(v, struct{ Name, Tenant, Rule, State string }{})
		if err := json.Unmarshal([]byte(line), &v[len(v)-1]); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	if len(v) != 1 || v[0].Name != "net" || v[0].Tenant != "ada" || v[0].Rule != "ada's" || v[0].State != "running" {
		t.Errorf("%+v", v)
	}
	if !strings.Contains(h.Log(), "a container violates the policy") {
		t.Errorf("the log does not say so: %s", h.Log())
	}
	if r := h.as(ada, "caisson", "exec", "net", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "NET_ADMIN") {
		t.Errorf("exec: %s", r)
	}
	h.must(ada, "rm", "-f", "net")
	// A mistake changes nothing.
	if err := os.WriteFile(h.policy, []byte("tenant: x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(h.PID("caissond"), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	h.Until("the mistake is told", func() bool { return strings.Contains(h.Log(), `there is no key`) })
	if r := h.as(ada, "caisson", "run", "--privileged", "busybox", "true"); r.Code != 125 {
		t.Errorf("after a mistake: %s", r)
	}
}

// Others may be denied altogether.
func TestOthersAreDenied(t *testing.T) {
	h := start(t, "tenants: [{name: ada, uids: [61001]}]\nothers: {deny: ask the helpdesk}\n")
	h.must(ada, "ps")
	for _, args := range [][]string{{"ps"}, {"images"}, {"info"}, {"run", "busybox", "true"}} {
		if r := h.as(bob, "caisson", args...); r.Code == 0 || !strings.Contains(r.Stderr, "ask the helpdesk") {
			t.Errorf("%v: %s", args, r)
		}
	}
}

// What a tenant's images, containers and volumes take is counted, and over its
// quota nothing new begins: where the file system keeps quotas it cannot write on,
// and elsewhere it is found out at the next request.
func TestDiskQuota(t *testing.T) {
	h := start(t, "tenants: [{name: ada, uids: [61001], registries: [\"*\"], quota: {disk: 30m}}, {name: bob, uids: [61002]}]\nshared_images: [busybox]\n")
	kept := strings.Contains(h.Must("info", "--format", "{{.DriverStatus}}"), "[Disk quotas kept by the kernel")
	h.must(ada, "run", "--rm", "-v", "data:/data", "busybox", "dd", "if=/dev/zero", "of=/data/file", "bs=1M", "count=20")
	if r := h.as(ada, "caisson", "run", "--name", "full", "busybox", "dd", "if=/dev/zero", "of=/file", "bs=1M", "count=20"); (r.Code != 0) != kept {
		t.Errorf("kept by the kernel: %v; %s", kept, r)
	}
	h.Until("the quota is known to be used up", func() bool {
		r := h.as(ada, "caisson", "run", "--rm", "busybox", "true")
		return r.Code == 125 && strings.Contains(r.Stderr, "quota of tenant ada: disk: 30m allowed")
	})
	for _, args := range []string{"start full", "create busybox", "pull 127.0.0.1:1/none", "tag busybox mine"} {
		if r := h.as(ada, "caisson", strings.Fields(args)...); r.Code == 0 || !strings.Contains(r.Stderr, "disk: 30m allowed") {
			t.Errorf("%s: %s", args, r)
		}
	}
	h.must(bob, "run", "--rm", "busybox", "true")
	h.must(ada, "rm", "full")
	h.Until("there is room again", func() bool { return h.as(ada, "caisson", "run", "--rm", "busybox", "true").Code == 0 })
	if !kept {
		r := h.as(ada, "caisson", "run", "--rm", "--storage-opt", "size=1m", "busybox", "true")
		if r.Code != 125 || !strings.Contains(r.Stderr, "has no project quotas") {
			t.Errorf("%s", r)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/engine/dockerapi"
)

// asDaemon makes the test binary a caissond.
const asDaemon = "CAISSOND_TEST_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	code := m.Run()
	os.RemoveAll(fakeDir)
	os.Exit(code)
}

// patience bounds waits that only a bug makes long.
const patience = 60 * time.Second

// fakeDir is where fakeBackend put it.
var fakeDir string

// fakeBackend builds the backend that isolates nothing, once.
var fakeBackend = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "csfake")
	if err != nil {
		return "", err
	}
	fakeDir = dir
	out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "caisson-backend-fake"), "../../tests/fakebackend").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the fake backend: %w: %s", err, out)
	}
	return dir, nil
})

// rig is one daemon with roots of its own and the fake backend.
type rig struct {
	t        *testing.T
	dir      string
	backends string
	cmd      *exec.Cmd
	out      *bytes.Buffer
	said     chan string // what it tells the service manager
	args     []string
}

func newRig(t *testing.T, args ...string) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the daemon makes bridges and network namespaces")
	}
	backends, err := fakeBackend()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: shortDir(t), backends: backends, said: make(chan string, 16), args: args}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: r.dir + "/notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := l.Read(buf)
			if err != nil {
				return
			}
			r.said <- string(buf[:n])
		}
	}()
	t.Cleanup(r.cleanup)
	r.start()
	return r
}

func (r *rig) host() string { return "unix://" + r.dir + "/r/caisson.sock" }

// flags are what every daemon of the rig gets.
func (r *rig) flags() []string {
	return append([]string{"--data-root", r.dir + "/d", "--exec-root", r.dir + "/r", "--backend-dir", r.backends,
		"--config-file", r.dir + "/daemon.json", "--policy", r.dir + "/policy.yaml", "--bip", "10.213.77.1/24"}, r.args...)
}

// start runs a daemon until it says that it is ready.
func (r *rig) start() {
	r.t.Helper()
	for name, body := range map[string]string{"daemon.json": "{}", "policy.yaml": "{}"} {
		path := filepath.Join(r.dir, name)
		if _, err := os.Stat(path); err != nil {
			if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	r.out = new(bytes.Buffer)
	r.cmd = exec.Command(os.Args[0], r.flags()...)
	r.cmd.Env = append(os.Environ(), asDaemon+"=1", "NOTIFY_SOCKET="+r.dir+"/notify")
	r.cmd.Stderr = r.out
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.hear("READY=1")
}

// hear waits for a message to the service manager.
func (r *rig) hear(want string) {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case got := <-r.said:
			if strings.HasPrefix(got, want) {
				return
			}
		case <-deadline:
			r.t.Fatalf("the daemon never said %s; it logged:\n%s", want, r.out)
		}
	}
}

// end sends a signal and waits for the daemon's end.
func (r *rig) end(sig syscall.Signal) error {
	r.t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		r.t.Fatal(err)
	}
	return r.cmd.Wait()
}

// cleanup ends what the rig started and takes its traces off the host.
func (r *rig) cleanup() {
	if r.cmd.ProcessState == nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	}
	if b, err := os.ReadFile(r.dir + "/r/backends/fake/plugin.json"); err == nil {
		var rec struct{ PID int }
		if json.Unmarshal(b, &rec) == nil && rec.PID > 1 {
			_ = syscall.Kill(rec.PID, syscall.SIGKILL)
		}
	}
	c, _, err := load(r.flags())
	if err != nil {
		return
	}
	if sys, err := newPlatform(c, slog.New(slog.DiscardHandler)); err == nil {
		_ = sys.network.Cleanup()
	}
}

func (r *rig) get(path string) (*http.Response, []byte) {
	r.t.Helper()
	return r.do(http.MethodGet, path, "")
}

func (r *rig) do(method, path, body string) (*http.Response, []byte) {
	r.t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", r.dir+"/r/caisson.sock")
		}}}
	req, err := http.NewRequest(method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, b
}

// docker runs the docker client.
func (r *rig) docker(client, stdin string, args ...string) (stdout, stderr string, code int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, client, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+r.host(), "DOCKER_CONFIG="+r.dir)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		r.t.Errorf("docker %s did not end", strings.Join(args, " "))
	} else if err != nil && cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// clients are the docker clients on this machine.
func clients(t *testing.T) []string {
	var found []string
	for _, c := range []string{"/usr/local/bin/docker", "/usr/bin/docker"} {
		if _, err := os.Stat(c); err == nil {
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		t.Skip("needs a docker client: apt-get install docker.io")
	}
	return found
}

// testImage has nothing in it: the fake backend knows its commands by itself.
const testImage = "empty:1"

// emptyTar is a root filesystem without files.
var emptyTar = string(make([]byte, 1024))

// importImage makes testImage.
func (r *rig) importImage(client string) {
	r.t.Helper()
	if out, errs, code := r.docker(client, emptyTar, "import", "-", testImage); code != 0 {
		r.t.Fatal(out, errs)
	}
}

// Every verb of the docker client, once, in an order that makes sense.
func TestDockerClient(t *testing.T) {
	t.Parallel()
	for _, client := range clients(t) {
		t.Run(strings.ReplaceAll(client[1:], "/", "_"), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.importImage(client)
			for _, c := range []struct {
				args   string // separated by "|" where they have blanks
				stdin  string
				code   int
				stdout string // regular expressions
				stderr string
			}{
				{"version", "", 0, `Caisson Engine`, ``},
				{"info", "", 0, `(?s)Backend fake.*Swarm: inactive.*Default Runtime: fake/process`, ``},
				{"run|--rm|caisson/hello", "", 127, ``, `/hello`}, // it is here without a registry
				{"run|--rm|" + testImage + "|echo|hi", "", 0, `^hi\n$`, ``},
				{"run|--rm|" + testImage + "|sh|-c|echo out; echo err >&2; exit 7", "", 7, `^out\n$`, `err\n`},
				{"run|--rm|-i|" + testImage + "|cat", "some\ninput\n", 0, `^some\ninput\n$`, ``},
				{"run|--rm|" + testImage + "|nosuch", "", 127, ``, `executable file not found`},
				{"run|--rm|" + testImage + "|noexec", "", 126, ``, `permission denied|noexec`},
				{"run|--rm|--isolation|vm|" + testImage + "|true", "", 125, ``, `isolation level "vm"`},
				{"run|-d|--name|first|--label|a=b|" + testImage + "|sh|-c|echo one; hang", "", 0, `^[0-9a-f]{64}\n$`, ``},
				{"run|-d|--name|first|" + testImage + "|true", "", 125, ``, `already in use`},
				{"ps|--format|{{.Names}} {{.Status}}", "", 0, `^first Up `, ``},
				{"ps|-q|--filter|label=a=c", "", 0, `^$`, ``},
				{"logs|first", "", 0, `^one\n$`, ``},
				{"logs|-t|first", "", 0, `^\d{4}-\d\d-\d\dT[0-9:]+\.\d{9}Z one\n$`, ``},
				{"exec|first|echo|in|exec", "", 0, `^in exec\n$`, ``},
				{"exec|-i|first|cat", "through exec", 0, `^through exec$`, ``},
				{"exec|first|exit|9", "", 9, ``, ``},
				{"exec|-d|first|echo|x", "", 0, ``, ``},
				{"stats|--no-stream|--format|{{.Name}} {{.PIDs}}", "", 0, `^first \d`, ``},
				{"pause|first", "", 0, `first`, ``},
				{"ps|--format|{{.Status}}", "", 0, `Paused`, ``},
				{"unpause|first", "", 0, `first`, ``},
				{"update|--memory|64m|--memory-swap|64m|first", "", 0, `first`, ``},
				{"rename|first|second", "", 0, ``, ``},
				{"inspect|-f|{{.Name}} {{.State.Status}} {{.HostConfig.Memory}}|second", "", 0, `^/second running 67108864\n$`, ``},
				{"inspect|nosuch", "", 1, ``, `No such object: nosuch`},
				{"commit|-m|why|second|made:1", "", 0, `^sha256:`, ``},
				{"diff|second", "", 0, ``, ``},
				{"port|second", "", 0, `^$`, ``},
				{"restart|-t|0|second", "", 0, `second`, ``},
				{"kill|second", "", 0, `second`, ``},
				{"wait|second", "", 0, `^137\n$`, ``},
				{"start|second", "", 0, `second`, ``},
				{"stop|-t|0|second", "", 0, `second`, ``},
				{"history|--format|{{.Comment}}|made:1", "", 0, `^why\n`, ``},
				{"tag|made:1|made:2", "", 0, ``, ``},
				{"images|--format|{{.Repository}}:{{.Tag}}", "", 0, `(?s)made:[12].*made:[12]`, ``},
				{"image|inspect|-f|{{.Os}}|made:2", "", 0, `^linux\n`, ``},
				{"rmi|made:1|made:2", "", 0, `(?s)Untagged: made:1.*Untagged: made:2.*Deleted: sha256:`, ``},
				{"rmi|" + testImage, "", 1, ``, `conflict|in use|using`},
				{"rm|second", "", 0, `second`, ``},
				{"system|df", "", 0, `Images`, ``},
				{"system|df|-v", "", 0, `empty`, ``},
				{"network|ls|--format|{{.Name}}", "", 0, `(?s)bridge.*host.*none`, ``},
				{"network|inspect|bridge", "", 0, `10\.213\.77\.0/24`, ``},
				{"container|prune|-f", "", 0, ``, ``},
				{"image|prune|-f", "", 0, ``, ``},
				{"events|--since|1h|--until|-1s|--filter|event=rename", "", 0, `container rename [0-9a-f]{64} \(.*name=second`, ``},
				{"create|--name|third|" + testImage + "|true", "", 0, `^[0-9a-f]{64}\n$`, ``},
				{"cp|third:/nosuch|-", "", 1, ``, `Could not find the file /nosuch in container third|No such container:path`},
				{"rm|third", "", 0, ``, ``},
			} {
				out, errs, code := r.docker(client, c.stdin, strings.Split(c.args, "|")...)
				if code != c.code || !regexp.MustCompile(c.stdout).MatchString(out) || !regexp.MustCompile(c.stderr).MatchString(errs) {
					t.Errorf("docker %s: exit %d, want %d\nstdout: %s\nstderr: %s", c.args, code, c.code, out, errs)
				}
			}
		})
	}
}

// Every route answers in a way that a client understands, whatever it is asked for.
func TestEveryRouteAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// These speak to registries, or stream until the client leaves.
	skip := map[string]bool{"/auth": true, "/images/search": true, "/events": true}
	for _, rt := range dockerapi.Routes() {
		if skip[rt.Pattern] {
			continue
		}
		path := strings.NewReplacer("{id}", "nosuch", "{name}", "nosuch", "{name...}", "no/such", "{verb...}", "x").Replace(rt.Pattern)
		body := ""
		if rt.Method == http.MethodPost {
			body = "{}"
		}
		res, b := r.do(rt.Method, "/v1.50"+path, body)
		switch {
		case rt.Since > 50:
			if res.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s: %s at a version that lacks it", rt.Method, path, res.Status)
			}
			continue
		case rt.Served && res.StatusCode >= 500 && res.StatusCode != http.StatusNotImplemented, !rt.Served && res.StatusCode != http.StatusNotImplemented:
			t.Errorf("%s %s: %s: %s", rt.Method, path, res.Status, b)
		}
		if res.StatusCode >= 400 && rt.Method != http.MethodHead {
			var m struct{ Message string }
			if err := json.Unmarshal(b, &m); err != nil || m.Message == "" {
				t.Errorf("%s %s: %s: %q is not an error message", rt.Method, path, res.Status, b)
			}
		}
	}
}

func TestDaemonLife(t *testing.T) {
	t.Parallel()
	client := clients(t)[0]
	r := newRig(t)
	r.importImage(client)
	if out, errs, code := r.docker(client, "", "run", "-d", "--name", "stays", testImage, "sh", "-c", "echo one; hang"); code != 0 {
		t.Fatal(out, errs)
	}
	pid, err := os.ReadFile(r.dir + "/r/caissond.pid")
	if want := fmt.Sprintf("%d\n", r.cmd.Process.Pid); err != nil || string(pid) != want {
		t.Errorf("pidfile says %q, %v; want %q", pid, err, want)
	}

	// A second daemon on the same roots says who has them.
	second := exec.Command(os.Args[0], r.flags()...)
	second.Env = append(os.Environ(), asDaemon+"=1")
	out, err := second.CombinedOutput()
	if want := fmt.Sprintf("is in use by another caissond, process %d", r.cmd.Process.Pid); err == nil || !strings.Contains(string(out), want) {
		t.Errorf("a second daemon: %v, %s", err, out)
	}

	// What reload can take over, it takes; a mistake changes nothing.
	write := func(body string) {
		if err := os.WriteFile(r.dir+"/daemon.json", []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		r.hear("RELOADING=1")
		r.hear("READY=1")
	}
	write(`{"labels": ["site=test"], "mtu": 1400}`)
	if _, b := r.get("/info"); !strings.Contains(string(b), `"Labels":["site=test"]`) {
		t.Errorf("after a reload: %s", b)
	}
	write(`{"lables": []}`)
	if _, b := r.get("/info"); !strings.Contains(string(b), `"Labels":["site=test"]`) {
		t.Errorf("after a reload with a mistake: %s", b)
	}
	write(`{}`)

	if err := r.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if dumps, _ := filepath.Glob(r.dir + "/r/goroutines-*.txt"); len(dumps) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no goroutine dump was written")
		}
	}

	// A daemon that is told to stop ends its streams and leaves its containers.
	follow := exec.Command(client, "-H", r.host(), "logs", "-f", "stays")
	pipe, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 4)
	if _, err := io.ReadFull(pipe, first); err != nil || string(first) != "one\n" {
		t.Errorf("logs -f: %q, %v", first, err)
	}
	if err := r.end(syscall.SIGTERM); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, r.out)
	}
	_ = follow.Wait()
	for _, name := range []string{"caissond.pid", "caisson.sock"} {
		if _, err := os.Stat(r.dir + "/r/" + name); err == nil {
			t.Errorf("%s is left behind", name)
		}
	}
	if log := r.out.String(); !strings.Contains(log, "mtu") || !strings.Contains(log, "lables") {
		t.Errorf("the log does not tell what needs a restart and what was wrong:\n%s", log)
	}

	// However it ends, the next one finds everything.
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
		r.start()
		out, errs, code := r.docker(client, "", "inspect", "-f", "{{.State.Status}}", "stays")
		if out != "running\n" || code != 0 {
			t.Errorf("after a restart: %s%s", out, errs)
		}
		if out, errs, _ = r.docker(client, "", "exec", "stays", "echo", "back"); out != "back\n" {
			t.Errorf("exec after a restart: %s%s", out, errs)
		}
		_ = r.end(sig)
	}
	r.start()
	if out, errs, code := r.docker(client, "", "rm", "-f", "stays"); code != 0 {
		t.Error(out, errs)
	}
}

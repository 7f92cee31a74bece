package compose

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// verbs is a project of small services, driven by our tool.
func verbs(t *testing.T) *project {
	t.Helper()
	e := engine(t, testimage.Busybox(t, testimage.Config{}))
	return newProject(t, e, "verbs", ours(t))
}

// Every verb does what it is for. The rows are one story.
func TestVerbs(t *testing.T) {
	p := verbs(t)
	local := filepath.Join(t.TempDir(), "copied")
	const first, second = "verbs-idle-1", "verbs-idle-2"
	for _, c := range []struct {
		args string
		code int
		want []string // in the output, "!" before what must not be
	}{
		{"config -q", 0, nil},
		{"config --services", 0, []string{"job", "idle", "beside", "!tool"}},
		{"--profile tools config --services", 0, []string{"tool"}},
		{"config --images", 0, []string{"busybox"}},
		{"version --short", 0, []string{"2."}},
		{"ps", 0, []string{"NAME", "!idle"}},
		{"create idle", 0, []string{first, second, "Created"}},
		{"ps -a --format json", 0, []string{`"Name":"verbs-idle-1"`, `"State":"created"`}},
		{"start idle", 0, []string{"Started"}},
		{"up -d", 0, []string{"verbs-beside-1", first + "  Running"}},
		{"ps --services", 0, []string{"idle", "beside"}},
		{"ls", 0, []string{"verbs", "running("}},
		{"images", 0, []string{first, "busybox"}},
		{"port idle 80", 0, []string{"127.0.0.1:"}},
		{"port idle 81", 1, []string{"no port 81/tcp"}},
		{"top idle", 0, []string{"SERVICE", "idle"}},
		{"exec -T idle cat /etc/hostname", 0, nil},
		{"exec -T --index 2 -e A=b -w /tmp idle sh -c", 2, nil},
		{"exec -T --index 9 idle true", 1, []string{"container #9"}},
		{"exec -T beside ps", 0, []string{"trap"}}, // it sees the other's processes
		{"exec -T nosuch true", 1, []string{"no such service: nosuch"}},
		{"cp compose.yaml idle:/tmp/there", 0, nil},
		{"cp idle:/tmp/there " + local, 0, nil},
		{"logs --no-log-prefix idle", 0, []string{"up", "!|"}},
		{"logs --tail 1 idle", 0, []string{"idle-1 | up", "idle-2 | up"}},
		{"pause idle", 0, []string{"Paused"}},
		{"ps --status paused -q", 0, nil},
		{"unpause idle", 0, []string{"Unpaused"}},
		{"stats --no-stream", 0, []string{first, "CPU %"}},
		{"scale idle=3", 0, []string{"verbs-idle-3  Started"}},
		{"scale idle=1", 0, []string{second + "  Removed", "verbs-idle-3  Removed", "!" + first + "  Removed"}},
		{"kill -s TERM idle", 0, []string{first + "  Killed"}},
		{"wait idle", 0, []string{"exited with status code 0"}},
		{"wait job", 3, []string{"exited with status code 3"}},
		{"rm -f job", 0, []string{"verbs-job-1  Removed"}},
		{"run --rm -T tool", 0, []string{"tool"}},
		{"run --rm -T --no-deps --entrypoint sh job -c", 2, nil},
		{"run -d --name verbs-once tool", 0, nil},
		{"up -d --build", 1, []string{"does not build"}},
		{"up -d nosuch", 1, []string{"no such service: nosuch"}},
		{"start", 0, []string{first + "  Started", "verbs-beside-1  Started"}},
		{"stop -t 5", 0, []string{"verbs-beside-1  Stopped"}},
		{"restart -t 5 idle", 0, []string{first + "  Started", "verbs-beside-1  Started"}},
		{"events --since 1s --json nosuch", 1, nil},
		{"down -t 5", 0, []string{"verbs-beside-1  Removed", first + "  Removed"}},
		{"ps -aq", 0, []string{"!verbs"}},
		{"down", 0, []string{"No resource found"}},
	} {
		r := p.do(strings.Fields(c.args)...)
		if r.Code != c.code {
			t.Errorf("%s: %v, want exit code %d", c.args, r, c.code)
		}
		for _, want := range c.want {
			absent := strings.HasPrefix(want, "!")
			if strings.Contains(r.Stdout+r.Stderr, strings.TrimPrefix(want, "!")) == absent {
				t.Errorf("%s: %q in it: %v\n%v", c.args, want, absent, r)
			}
		}
	}
	if b, err := os.ReadFile(local); err != nil || !strings.Contains(string(b), "name: verbs") {
		t.Errorf("copied there and back: %q %v", b, err)
	}
}

// Attached, `up` shows what is written from the first byte, and ends as asked.
func TestAttached(t *testing.T) {
	p := verbs(t)
	r := p.do("up", "job")
	if r.Code != 0 || !strings.Contains(r.Stdout, "job-1 | working\njob-1 | done\n") || !strings.Contains(r.Stdout, "job-1 exited with code 3") {
		t.Errorf("one that ends: %v", r)
	}
	r = p.do("up", "job")
	if strings.Count(r.Stdout, "working") != 1 {
		t.Errorf("again: what it wrote before is shown: %v", r)
	}
	r = p.do("up", "-t", "5", "--exit-code-from", "job")
	if r.Code != 3 || !strings.Contains(r.Stdout, "Aborting on container exit...") || !strings.Contains(r.Stdout, "idle-1   | up") && !strings.Contains(r.Stdout, "idle-1 ") {
		t.Errorf("--exit-code-from: %v", r)
	}
	if out := p.must("ps", "-q"); out != "" {
		t.Errorf("still running: %s", out)
	}
	p.env = []string{"CODE=0"}
	if r = p.do("up", "-t", "5", "--abort-on-container-exit"); r.Code != 0 {
		t.Errorf("--abort-on-container-exit: %v", r)
	}

	cmd := p.command("up", "-t", "5", "idle")
	result := make(chan harness.Result, 1)
	go func() { result <- harness.DoWithin(t, cmd, long) }()
	p.until("both run", func() bool { return len(strings.Fields(p.do("ps", "-q", "idle").Stdout)) == 2 })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if r = <-result; r.Code != 130 || !strings.Contains(r.Stdout, "Gracefully stopping") {
		t.Errorf("Ctrl-C: %v", r)
	}
	if out := p.must("ps", "-q"); out != "" {
		t.Errorf("running after Ctrl-C: %s", out)
	}
}

// Each tool leaves alone what the other made, and changes only what changed.
func TestTwoToolsOneProject(t *testing.T) {
	e := engine(t, testimage.Busybox(t, testimage.Config{}))
	var both []*project
	for _, tool := range tools {
		p := newProject(t, e, "verbs", tool.command(t))
		// Of several containers made anew, Docker's tool shares with any one.
		p.env = []string{"IDLE=1"}
		both = append(both, p)
	}
	both[0].must("up", "-d")
	made := both[0].ids()
	if len(made) != 3 {
		t.Fatalf("made: %v", made)
	}
	for _, p := range []*project{both[1], both[0]} {
		p.must("up", "-d")
		if now := p.ids(); fmt.Sprint(now) != fmt.Sprint(made) {
			t.Errorf("%s made containers anew: %v, before %v", p.tool, now, made)
		}
	}
	for i, word := range []string{"second", "third"} {
		p := both[1-i]
		p.env = []string{"IDLE=1", "WORD=" + word}
		p.must("up", "-d", "-t", "5")
		now := p.ids()
		for name, id := range now {
			// What shares the changed one's namespaces must follow it.
			if anew := made[name] != id; anew != !strings.Contains(name, "job") {
				t.Errorf("%s, WORD=%s: %s made anew: %v", p.tool, word, name, anew)
			}
		}
		made = now
		other := both[i]
		other.env = p.env
		other.must("up", "-d")
		if now := other.ids(); fmt.Sprint(now) != fmt.Sprint(made) {
			t.Errorf("%s after %s made containers anew: %v, before %v", other.tool, p.tool, now, made)
		}
	}
	theirs, ours := both[0].must("config"), both[1].must("config")
	if theirs != ours {
		t.Errorf("config differs:\n%s\n\n%s", theirs, ours)
	}
	both[1].must("down", "-t", "5")
	both[1].nothingLeft()
}

// A project is what bears its name, wherever its files are.
func TestByNameAlone(t *testing.T) {
	p := verbs(t)
	p.must("up", "-d", "idle", "beside")
	p.dir = t.TempDir()
	if r := p.do("ps"); r.Code != 1 || !strings.Contains(r.Stderr, "no configuration file provided") {
		t.Errorf("no files, no name: %v", r)
	}
	if out := p.must("-p", "verbs", "ps"); !strings.Contains(out, "verbs-idle-2") {
		t.Errorf("ps: %s", out)
	}
	if r := p.do("-p", "verbs", "up", "-d"); r.Code == 0 || !strings.Contains(r.Stderr, "no configuration file provided") {
		t.Errorf("up without files: %v", r)
	}
	p.must("-p", "verbs", "stop", "-t", "5")
	p.must("-p", "verbs", "start")
	p.must("-p", "verbs", "exec", "-T", "beside", "true")
	p.must("-p", "verbs", "down", "-t", "5")
	p.nothingLeft()
}

// A service that is not healthy in time, or fails, stops what depends on it with
// a reason.
func TestDependencyFails(t *testing.T) {
	p := verbs(t)
	write := func(text string) {
		p.dir = t.TempDir()
		if err := os.WriteFile(filepath.Join(p.dir, "compose.yaml"), []byte("name: verbs\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const services = `
services:
  first: {image: busybox, network_mode: none, command: ["sh", "-c", "sleep %s; exit 4"]%s}
  then: {image: busybox, network_mode: none, command: ["true"], depends_on: {first: {condition: %s, required: %v}}}
`
	health := `, healthcheck: {test: "false", interval: 100ms, retries: 1}`
	for _, c := range []struct {
		lasts, health, condition string
		required                 bool
		code                     int
		want                     string
	}{
		{"0.2", "", "service_completed_successfully", true, 1, `service "first" didn't complete successfully: exit 4`},
		{"0.2", "", "service_completed_successfully", false, 0, "optional dependency"},
		{"60", "", "service_healthy", true, 1, "has no healthcheck configured"},
		{"60", health, "service_healthy", true, 1, "container verbs-first-1 is unhealthy"},
		{"0.2", strings.Replace(health, "retries: 1", "retries: 100", 1), "service_healthy", true, 1, "container verbs-first-1 exited (4)"},
	} {
		write(fmt.Sprintf(services, c.lasts, c.health, c.condition, c.required))
		if r := p.do("up", "-d"); r.Code != c.code || !strings.Contains(r.Stderr, c.want) {
			t.Errorf("%s, required %v: %v, want %d and %q", c.condition, c.required, r, c.code, c.want)
		}
		p.must("down", "-t", "1")
	}
}

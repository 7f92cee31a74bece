package compose

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testruntime"
)

// tools are what drives the projects.
var tools = []struct {
	name    string
	command func(t *testing.T) []string
}{
	{"docker", func(t *testing.T) []string { return []string{testruntime.Compose(t)} }},
	{"caisson", ours},
}

// ours is our own tool.
func ours(t *testing.T) []string {
	return []string{filepath.Join(harness.Bin(t), "caisson"), "compose"}
}

// token is a secret that travels by the environment.
const token = "kept-from-everybody-2"

// project is a directory of testdata, driven by one tool.
type project struct {
	t    *testing.T
	e    *harness.Engine
	tool []string
	dir  string
	name string // in the files
	env  []string
}

// long bounds one command of a tool: health checks and shutdowns take their time.
const long = 90 * time.Second

// newProject is the project of that name in testdata, which goes with the test.
func newProject(t *testing.T, e *harness.Engine, name string, tool []string) *project {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	p := &project{t: t, e: e, tool: tool, dir: dir, name: name}
	t.Cleanup(func() { p.do("-p", name, "--profile", "*", "down", "-v", "--remove-orphans", "-t", "1") })
	return p
}

// do runs the tool.
func (p *project) do(args ...string) harness.Result {
	p.t.Helper()
	return harness.DoWithin(p.t, p.command(args...), long)
}

// command is the tool's, ready to run.
func (p *project) command(args ...string) *exec.Cmd {
	args = append(p.tool[1:len(p.tool):len(p.tool)], args...)
	cmd := exec.Command(p.tool[0], args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "HOME="+p.e.DataRoot, "DOCKER_HOST="+p.e.Host, "CAISSON_HOST="+p.e.Host, "APP_TOKEN="+token)
	cmd.Env = append(cmd.Env, p.env...)
	return cmd
}

// must fails the test unless the tool exits with 0, and returns the trimmed output.
func (p *project) must(args ...string) string {
	p.t.Helper()
	r := p.do(args...)
	if r.Code != 0 {
		ps := p.do("ps", "-a")
		logs := p.do("logs", "--tail", "20")
		p.t.Fatalf("%s compose %s: %v\n%s\n%s%s", p.t.Name(), strings.Join(args, " "), r, ps.Stdout, logs.Stdout, logs.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// caisson runs a verb of ours that is not compose's, which must go well.
func (p *project) caisson(args ...string) string {
	p.t.Helper()
	r := p.e.Caisson(args...)
	if r.Code != 0 {
		p.t.Fatalf("caisson %s: %v", strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.Stdout)
}

// engine runs one for a test. The projects make many networks beside those of
// the engines of other suites: theirs are small and from a pool of their own.
func engine(t *testing.T, archive string) *harness.Engine {
	t.Helper()
	e := harness.Start(t, "--default-address-pool", "base=10.213.0.0/16,size=24")
	e.Load(archive)
	return e
}

// withTools runs a test of a project once with each tool, and checks that `down`
// leaves nothing of it.
func withTools(t *testing.T, e *harness.Engine, name string, test func(*project)) {
	for _, tool := range tools {
		t.Run(tool.name, func(t *testing.T) {
			p := newProject(t, e, name, tool.command(t))
			test(p)
			if t.Failed() {
				return
			}
			p.must("--profile", "*", "down", "-v", "--remove-orphans", "-t", "1")
			p.nothingLeft()
		})
	}
}

// nothingLeft fails the test if the engine still has something of the project.
func (p *project) nothingLeft() {
	p.t.Helper()
	label := "label=com.docker.compose.project=" + p.name
	for _, list := range [][]string{{"ps", "-aq"}, {"network", "ls", "-q"}, {"volume", "ls", "-q"}} {
		if left := p.caisson(append(list, "--filter", label)...); left != "" {
			p.t.Errorf("%v: the project left behind: %s", list, left)
		}
	}
}

// container is the engine's name of a service's container.
func (p *project) container(service string, number int) string {
	return fmt.Sprintf("%s-%s-%d", p.name, service, number)
}

// inspect is one field of a service's first container.
func (p *project) inspect(service, field string) string {
	p.t.Helper()
	return p.caisson("inspect", "-f", field, p.container(service, 1))
}

// ids are the containers of the project by service, to see which were made anew.
func (p *project) ids() map[string]string {
	p.t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(p.caisson("ps", "-a", "--no-trunc", "--filter", "label=com.docker.compose.project="+p.name, "--format", "{{.Names}} {{.ID}}")) {
		name, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		out[name] = id
	}
	return out
}

// until polls for a condition that the project brings about.
func (p *project) until(what string, cond func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(long); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("waited %s in vain: %s\n%s", long, what, p.do("ps", "-a").Stdout)
		}
	}
}

// visit is what the application answers.
type visit struct {
	Greeting, Peer    string
	Rows, Hits, Token int
}

// browser gives up soon on an application that is just going or coming.
var browser = http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get asks the application through its published port until it answers.
func (p *project) get() visit {
	p.t.Helper()
	var v visit
	p.until("the application answers", func() bool {
		at := p.do("port", "web", "80")
		if at.Code != 0 {
			return false
		}
		r, err := browser.Get("http://" + strings.TrimSpace(at.Stdout) + "/")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return r.StatusCode == http.StatusOK && json.Unmarshal(b, &v) == nil
	})
	return v
}

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// slow bounds a command that moves a large image or waits for the network.
const slow = 3 * time.Minute

// client is a command line that speaks to an engine.
type client struct {
	name string // of subtests
	path string // of the program
	host string // -H
	home string // where it keeps logins and contexts
	env  []string
}

// clients are ours, the docker on PATH, and Debian's own where that is another.
func clients(t *testing.T, e *harness.Engine) []client {
	t.Helper()
	all := []client{{name: "caisson", path: filepath.Join(harness.Bin(t), "caisson"), host: e.Host, home: t.TempDir()}}
	seen := map[string]bool{}
	for _, name := range []string{"docker", "/usr/bin/docker"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		version, err := exec.Command(path, "--version").Output()
		if err != nil || seen[string(version)] {
			continue
		}
		seen[string(version)] = true
		// Docker version 20.10.24+dfsg1, build 297e128
		number := regexp.MustCompile(`[0-9.]+`).FindString(string(version))
		all = append(all, client{name: "docker-" + number, path: path, host: e.Host, home: t.TempDir()})
	}
	return all
}

// each runs a test with each of the clients.
func each(t *testing.T, e *harness.Engine, test func(t *testing.T, c client)) {
	t.Helper()
	all := clients(t, e)
	for _, c := range all {
		harness.Run(t, c.name, func(t *testing.T) { test(t, c) })
	}
	if len(all) == 1 {
		harness.Run(t, "docker", func(t *testing.T) { harness.Need(t, "docker") })
	}
}

// command is ready to run.
func (c client) command(args ...string) *exec.Cmd {
	if c.host != "" {
		args = append([]string{"-H", c.host}, args...)
	}
	cmd := exec.Command(c.path, args...)
	cmd.Env = append(os.Environ(), "HOME="+c.home, "DOCKER_CONFIG="+filepath.Join(c.home, ".docker"), "DOCKER_CLI_HINTS=false", "TERM=xterm")
	cmd.Env = append(cmd.Env, c.env...)
	return cmd
}

func (c client) run(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return harness.DoWithin(t, c.command(args...), slow)
}

// must fails the test unless the command exits with 0; it returns the trimmed
// output.
func (c client) must(t *testing.T, args ...string) string {
	t.Helper()
	r := c.run(t, args...)
	if r.Code != 0 {
		t.Fatalf("%s %s: %v", c.name, strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.Stdout)
}

// want fails the test unless the output matches.
func (c client) want(t *testing.T, pattern string, args ...string) {
	t.Helper()
	if out := c.must(t, args...); !regexp.MustCompile(pattern).MatchString(out) {
		t.Errorf("%s %s: %q does not match %s", c.name, strings.Join(args, " "), out, pattern)
	}
}

// becomes waits until the output matches, which another process brings about.
func (c client) becomes(t *testing.T, pattern string, args ...string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		r := c.run(t, args...)
		if r.Code == 0 && regexp.MustCompile(pattern).MatchString(r.Stdout+r.Stderr) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s %s: waited in vain for %s: %v", c.name, strings.Join(args, " "), pattern, r)
		}
	}
}

// refused fails the test unless the command fails and says why.
func (c client) refused(t *testing.T, pattern string, args ...string) {
	t.Helper()
	r := c.run(t, args...)
	if r.Code == 0 || !regexp.MustCompile(pattern).MatchString(r.Stderr) {
		t.Errorf("%s %s: should have said %s: %v", c.name, strings.Join(args, " "), pattern, r)
	}
}

// docker is the docker client for a host.
func docker(t *testing.T, host string) client {
	t.Helper()
	harness.Need(t, "docker")
	return client{name: "docker", path: "docker", host: host, home: t.TempDir()}
}

// busybox is an engine with the image busybox.
func busybox(t *testing.T, args ...string) *harness.Engine {
	t.Helper()
	e := harness.Start(t, args...)
	e.Load(testimage.Busybox(t, testimage.Config{}))
	return e
}

//go:build linux

package runtime

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// helperEnv turns the test binary into a backend that a test kills: "dir init
// keeper root".
const helperEnv = "CAISSON_RUNTIME_TEST_BACKEND"

// runHelper is that backend: one running container, one created, one with a
// terminal, a held file; then it says so and waits to be killed.
func runHelper() bool {
	text := os.Getenv(helperEnv)
	if text == "" {
		return false
	}
	f := strings.Fields(text)
	if err := helper(f[0], f[1], f[2], f[3]); err != nil {
		fmt.Println(err)
		return true
	}
	fmt.Println("ready")
	select {}
}

func helper(dir, initPath, keeperPath, root string) error {
	ctx := context.Background()
	r, err := Open(ctx, Config{Dir: dir, InitPath: initPath, KeeperPath: keeperPath})
	if err != nil {
		return err
	}
	for _, c := range []struct {
		key, script string
		start, tty  bool
	}{
		{"running", "trap 'exit 9' TERM; while true; do sleep 0.05; done", true, false},
		{"created", "exit 5", false, false},
		{"terminal", "read x; echo got $x; exit 6", true, true},
		{"ending", "exit 8", true, false},
	} {
		s := ordinary(root, "/bin/sh", "-c", c.script)
		s.Process.Terminal = c.tty
		p, err := r.Create(ctx, CreateOptions{Key: c.key, Spec: s})
		if err != nil {
			return err
		}
		if c.start {
			if err := p.Start(ctx); err != nil {
				return err
			}
		}
		if c.key == "ending" {
			<-p.Done()
		}
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	if _, err := pw.WriteString("kept"); err != nil {
		return err
	}
	return r.Hold("running", "pipe", pr)
}

// killedBackend starts a backend in g's directory and kills it when it is ready.
func killedBackend(t *testing.T, g *rig) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), helperEnv+"="+strings.Join([]string{g.cfg.Dir, g.cfg.InitPath, g.cfg.KeeperPath, busybox(t)}, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	if line != "ready\n" {
		t.Fatalf("backend: %q", line)
	}
}

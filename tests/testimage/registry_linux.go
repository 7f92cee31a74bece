package testimage

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Registry is a docker-registry of Debian's on a loopback port.
type Registry struct {
	Addr string // host:port
	cmd  *exec.Cmd
}

// Who may use a registry of StartPrivateRegistry.
const (
	RegistryUser     = "tester"
	RegistryPassword = "right"
	htpasswd         = RegistryUser + ":$2b$05$aaaaaaaaaaaaaaaaaaaaaOkMEifTbpSZb9IGZIWM140wtAYqPPloe\n"
)

// StartRegistry runs a registry that serves everybody until the test ends.
func StartRegistry(t testing.TB) *Registry {
	t.Helper()
	return startRegistry(t, "", http.StatusOK)
}

// StartPrivateRegistry runs a registry that serves RegistryUser only.
func StartPrivateRegistry(t testing.TB) *Registry {
	t.Helper()
	path := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(path, []byte(htpasswd), 0o600); err != nil {
		t.Fatal(err)
	}
	return startRegistry(t, "auth: {htpasswd: {realm: tests, path: "+path+"}}\n", http.StatusUnauthorized)
}

// startRegistry adds a line to the configuration and waits until an anonymous
// client gets the answer.
func startRegistry(t testing.TB, line string, answer int) *Registry {
	t.Helper()
	needs(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: " + dir + "}, delete: {enabled: true}}\nhttp: {addr: \"" + addr + "\"}\n" + line
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)

	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	r := &Registry{Addr: addr, cmd: cmd}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	for r.answer(ctx) != answer {
		select {
		case <-ctx.Done():
			t.Fatal("docker-registry does not answer")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return r
}

// answer is the status that an anonymous client gets, 0 for none.
func (r *Registry) answer(ctx context.Context) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Addr+"/v2/", nil)
	if err != nil {
		return 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

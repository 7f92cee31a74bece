package images

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestMain is also the process that TestKilledPull kills.
func TestMain(m *testing.M) {
	if ref := os.Getenv("CAISSON_TEST_PULL"); ref != "" {
		s, err := New(context.Background(), Config{Root: os.Getenv("CAISSON_TEST_ROOT")})
		if err == nil {
			_, err = s.Pull(context.Background(), PullOptions{Ref: ref}, func(u Update) {
				if u.Status == "Downloading" {
					fmt.Println(u.Current)
				}
			})
		}
		fmt.Println("ended", err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// startRegistry runs Debian's docker-registry and returns its address.
func startRegistry(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("needs docker-registry: apt-get install docker-registry")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	conf := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", dir, addr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 200 {
		if r, err := http.Get("http://" + addr + "/v2/"); err == nil {
			r.Body.Close()
			return addr
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatal("docker-registry does not answer")
	return ""
}

// An image goes to a real registry and comes back; a pull killed half way is
// taken up by the next process, which downloads only the rest.
func TestKilledPull(t *testing.T) {
	s, ctx := newService(t), context.Background()
	addr := startRegistry(t)
	size := 16 << 20
	noise := make([]byte, size)
	x := uint64(1)
	for i := range noise {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		noise[i] = byte(x)
	}
	img, err := s.Import(ctx, strings.NewReader(string(layer(t, file{name: "noise", body: string(noise)}))), ImportOptions{Ref: addr + "/big:1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Push(ctx, PushOptions{Ref: addr + "/big:1"}, nil); err != nil {
		t.Fatal(err)
	}
	// The way there is slow, and counted.
	target, _ := url.Parse("http://" + addr)
	var sent atomic.Int64
	slow := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, FlushInterval: -1,
		ModifyResponse: func(r *http.Response) error {
			r.Body = struct {
				io.Reader
				io.Closer
			}{&throttle{r.Body, &sent}, r.Body}
			return nil
		}}
	proxy := httptest.NewServer(slow)
	t.Cleanup(proxy.Close)
	ref := strings.TrimPrefix(proxy.URL, "http://") + "/big:1"

	root := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CAISSON_TEST_PULL="+ref, "CAISSON_TEST_ROOT="+root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for sc := bufio.NewScanner(out); sc.Scan(); {
		if strings.HasPrefix(sc.Text(), "ended") {
			t.Fatalf("the pull %s before it could be killed", sc.Text())
		}
		if sent.Load() > int64(size/2) {
			break
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()

	sent.Store(0)
	later := newServiceAt(t, root)
	got, err := later.Pull(ctx, PullOptions{Ref: ref}, nil)
	if err != nil || got.ID != img.ID || !got.Unpacked {
		t.Fatalf("%v %+v", err, got)
	}
	if n := sent.Load(); n > int64(size)*3/4 {
		t.Errorf("%d bytes were downloaded again", n)
	}
	if !later.overlay {
		return
	}
	lowers, err := later.lowerDirs(ctx, got.ChainID)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(lowers[0], "noise")); err != nil || string(b) != string(noise) {
		t.Errorf("the file is damaged: %v", err)
	}
}

// throttle passes at most some 15 MB/s on.
type throttle struct {
	r io.Reader
	n *atomic.Int64
}

func (s *throttle) Read(p []byte) (int, error) {
	time.Sleep(2 * time.Millisecond)
	n, err := s.r.Read(p[:min(len(p), 32<<10)])
	s.n.Add(int64(n))
	return n, err
}

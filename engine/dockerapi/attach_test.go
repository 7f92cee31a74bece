package dockerapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"

	"github.com/caisson-engine/caisson/engine"
)

// patience bounds waits that only a bug makes long.
const patience = 20 * time.Second

func listenLocal(t *testing.T, network string) net.Listener {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "api") // t.TempDir is too long for a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		addr = filepath.Join(dir, "s")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// hijack sends a request with an upgrade and returns what follows the headers.
func hijack(t *testing.T, l net.Listener, target string, upgrade bool) (halfCloser, *bufio.Reader, *http.Response) {
	t.Helper()
	conn, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	h := ""
	if upgrade {
		h = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
	}
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: 0\r\n\r\n", target, h)
	br := bufio.NewReader(conn)
	r, err := http.ReadResponse(br, &http.Request{Method: http.MethodPost})
	if err != nil {
		t.Fatal(err)
	}
	return conn.(halfCloser), br, r
}

func serve(t *testing.T, e Engine, network string) net.Listener {
	t.Helper()
	l := listenLocal(t, network)
	s := New(Config{Engine: e, Log: slog.New(slog.DiscardHandler)}).HTTPServer(t.Context())
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l
}

// cat is a process that sends its input back on stdout, and how much it was on
// stderr once the input ends.
func cat(tty bool) func(context.Context, string, engine.AttachOptions) error {
	return func(ctx context.Context, _ string, o engine.AttachOptions) error {
		if err := o.Ready(tty); err != nil {
			return err
		}
		n, err := io.Copy(o.Stdout, o.Stdin)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(o.Stderr, "%d bytes", n)
		return err
	}
}

func TestAttachHalfClose(t *testing.T) {
	in := strings.Repeat("some input\n", 10000)
	for _, network := range []string{"unix", "tcp"} {
		for _, c := range []struct {
			name, path  string
			tty, up     bool
			status      int
			contentType string
		}{
			{"multiplexed", "/v1.50/containers/x/attach", false, true, 101, "application/vnd.docker.multiplexed-stream"},
			{"old client", "/v1.41/containers/x/attach", false, true, 101, "application/vnd.docker.raw-stream"},
			{"terminal", "/containers/x/attach", true, true, 101, "application/vnd.docker.raw-stream"},
			{"no upgrade", "/containers/x/attach", false, false, 200, "application/vnd.docker.multiplexed-stream"},
		} {
			t.Run(network+"/"+c.name, func(t *testing.T) {
				l := serve(t, &stub{attach: cat(c.tty)}, network)
				conn, br, r := hijack(t, l, c.path+"?stream=1&stdin=1&stdout=1&stderr=1", c.up)
				if r.StatusCode != c.status || r.Header.Get("Content-Type") != c.contentType {
					t.Fatalf("answer is %s, %s", r.Status, r.Header.Get("Content-Type"))
				}
				go func() {
					io.WriteString(conn, in)
					conn.CloseWrite()
				}()
				var out, errs bytes.Buffer
				if c.tty {
					io.Copy(&out, br)
					if want := in + fmt.Sprintf("%d bytes", len(in)); out.String() != want {
						t.Errorf("got %d bytes, want %d", out.Len(), len(want))
					}
					return
				}
				if _, err := stdcopy.StdCopy(&out, &errs, br); err != nil {
					t.Fatal(err)
				}
				if out.String() != in || errs.String() != fmt.Sprintf("%d bytes", len(in)) {
					t.Errorf("got %d bytes and %q", out.Len(), errs.String())
				}
			})
		}
	}
}

func TestAttachErrors(t *testing.T) {
	l := serve(t, &stub{attach: func(context.Context, string, engine.AttachOptions) error {
		return fmt.Errorf("No such container: x: %w", errdefs.ErrNotFound)
	}}, "tcp")
	_, _, r := hijack(t, l, "/containers/x/attach?stream=1&stdout=1", true)
	if r.StatusCode != http.StatusNotFound {
		t.Errorf("before the streams: %s", r.Status)
	}
	l = serve(t, &stub{attach: func(_ context.Context, _ string, o engine.AttachOptions) error {
		if err := o.Ready(false); err != nil {
			return err
		}
		return fmt.Errorf("it broke: %w", errdefs.ErrUnavailable)
	}}, "tcp")
	_, br, r := hijack(t, l, "/containers/x/attach?stream=1&stdout=1", true)
	var out, errs bytes.Buffer
	_, err := stdcopy.StdCopy(&out, &errs, br)
	if r.StatusCode != http.StatusSwitchingProtocols || err != nil || errs.String() != "it broke\r\n" {
		t.Errorf("in the streams: %s, %q, %v", r.Status, errs.String(), err)
	}
}

// A client that goes away without a word ends its attachment, whether it had
// closed its input before or not, and although the process says nothing.
func TestAttachVanishingClient(t *testing.T) {
	for _, c := range []struct {
		name, query  string
		halfClose    bool
		network      string
		onlyOnLinux  bool
		readsTheWire bool
	}{
		{"output only", "stdout=1", false, "unix", true, false},
		{"output only, input closed", "stdout=1", true, "unix", true, false},
		{"with input", "stdin=1&stdout=1", false, "unix", true, true},
		{"with input, input closed", "stdin=1&stdout=1", true, "unix", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.onlyOnLinux && runtime.GOOS != "linux" {
				t.Skip("needs Linux: other systems notice with the next write")
			}
			attached, ended := make(chan struct{}), make(chan error, 1)
			l := serve(t, &stub{attach: func(ctx context.Context, _ string, o engine.AttachOptions) error {
				if err := o.Ready(false); err != nil {
					return err
				}
				if c.readsTheWire {
					go io.Copy(io.Discard, o.Stdin)
				}
				close(attached)
				<-ctx.Done()
				ended <- ctx.Err()
				return ctx.Err()
			}}, c.network)
			conn, _, _ := hijack(t, l, "/containers/x/attach?stream=1&"+c.query, true)
			<-attached
			if c.halfClose {
				conn.CloseWrite()
				select {
				case <-ended:
					t.Fatal("closing the input ended the attachment")
				case <-time.After(50 * time.Millisecond):
				}
			}
			conn.Close()
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("ended with %v", err)
				}
			case <-time.After(patience):
				t.Fatal("the attachment outlived its client")
			}
		})
	}
}

// wait's headers must come before the exit: clients start the container then.
func TestWaitAnswersBeforeTheExit(t *testing.T) {
	exit := make(chan engine.Exit, 1)
	contexts := make(chan context.Context, 1)
	l := serve(t, &stub{wait: func(ctx context.Context, ref string, c engine.WaitCondition) (<-chan engine.Exit, error) {
		contexts <- ctx
		return exit, nil
	}}, "unix")
	_, _, r := hijack(t, l, "/containers/x/wait?condition=next-exit", false)
	if r.StatusCode != http.StatusOK {
		t.Fatal(r.Status)
	}
	<-contexts
	exit <- engine.Exit{Code: 7, Error: "why"}
	body, err := io.ReadAll(r.Body)
	if want := `{"Error":{"Message":"why"},"StatusCode":7}`; strings.TrimSpace(string(body)) != want {
		t.Errorf("got %s, %v", body, err)
	}

	conn, _, _ := hijack(t, l, "/containers/x/wait", false)
	ctx := <-contexts
	conn.Close()
	select {
	case <-ctx.Done():
	case <-time.After(patience):
		t.Fatal("waiting outlived its client")
	}
	close(exit) // as the engine does when the context ends
	if r := ask(t, &stub{}, "POST", "/containers/x/wait?condition=soon", ""); r.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown condition: %s", r.Status)
	}
}

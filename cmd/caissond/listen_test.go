//go:build !windows

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/caisson-engine/caisson/engine/dockerapi"
	"github.com/caisson-engine/caisson/engine/identity"
)

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert, key, filepath.Join(dir, name+".pem")}
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue writes a certificate and its key, and returns their files.
func (a *authority) issue(t *testing.T, dir, name string, usage x509.ExtKeyUsage) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, Organization: []string{"tests"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	writePEM(t, cert, "CERTIFICATE", der)
	writePEM(t, key, "EC PRIVATE KEY", kder)
	return cert, key
}

// whoAmI is an engine that remembers who asked.
type whoAmI struct {
	dockerapi.Engine
	who chan identity.Identity
}

func (whoAmI) Identify(id identity.Identity) (identity.Identity, error) { return id, nil }

func (e whoAmI) Inspect(ctx context.Context, _ string, _ bool) (container.InspectResponse, error) {
	e.who <- identity.From(ctx)
	return container.InspectResponse{}, nil
}

// serveOn serves an API on the config's sockets and returns it with the first socket's address.
func serveOn(t *testing.T, c *config) (whoAmI, net.Addr) {
	t.Helper()
	e := whoAmI{who: make(chan identity.Identity, 1)}
	ls, err := listen(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	srv := dockerapi.New(dockerapi.Config{Engine: e}).HTTPServer(t.Context())
	for _, l := range ls {
		go srv.Serve(l)
		t.Cleanup(l.release)
	}
	t.Cleanup(func() { srv.Close() })
	return e, ls[0].Addr()
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca, other := newAuthority(t, dir, "ca"), newAuthority(t, dir, "other")
	cert, key := ca.issue(t, dir, "server", x509.ExtKeyUsageServerAuth)
	c, _, err := load(fileArgs(t, "", "-H", "tcp://127.0.0.1:0", "--tlsverify", "--tlscacert", ca.file, "--tlscert", cert, "--tlskey", key))
	if err != nil {
		t.Fatal(err)
	}
	e, addr := serveOn(t, c)

	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	get := func(signer *authority, name string) error {
		conf := &tls.Config{RootCAs: roots}
		if signer != nil {
			crt, k := signer.issue(t, dir, name, x509.ExtKeyUsageClientAuth)
			pair, err := tls.LoadX509KeyPair(crt, k)
			if err != nil {
				t.Fatal(err)
			}
			conf.Certificates = []tls.Certificate{pair}
		}
		client := http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
		r, err := client.Get("https://" + addr.String() + "/containers/x/json")
		if err == nil {
			io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}
		return err
	}
	if err := get(ca, "alice"); err != nil {
		t.Fatalf("a client with a good certificate: %v", err)
	}
	if who := <-e.who; who.Tenant != "cert:alice" || who.Cert != "CN=alice,O=tests" {
		t.Errorf("alice is %+v", who)
	}
	if err := get(nil, ""); err == nil {
		t.Error("a client without a certificate was served")
	}
	if err := get(other, "mallory"); err == nil {
		t.Error("a client with a stranger's certificate was served")
	}
	r, err := http.Get("http://" + addr.String() + "/_ping")
	if err == nil {
		r.Body.Close()
		if r.StatusCode == http.StatusOK {
			t.Error("a client without TLS was served")
		}
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "csd") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	c := &config{Hosts: []string{"unix://" + path}}
	e, _ := serveOn(t, c)
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != socketMode {
		t.Errorf("socket is %v, %v", st.Mode(), err)
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	r, err := client.Get("http://x/containers/x/json")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if who := <-e.who; who.UID != os.Getuid() || who.GID != os.Getgid() || who.PID != os.Getpid() {
		t.Errorf("we are %+v", who)
	}

	if _, err := listen(t.Context(), c); err == nil || !strings.Contains(err.Error(), "another daemon answers") {
		t.Errorf("a socket in use was taken: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	c := &config{Hosts: []string{"unix://" + path}}
	ls, err := listen(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	// Releasing ours must not take away a successor's.
	dead.Close()
	ls[0].Close()
	next, err := listen(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ls[0].release()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the successor's socket is gone: %v", err)
	}
	next[0].Close()
	next[0].release()
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket outlived its release")
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(t.Context(), c); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in the way: %v", err)
	}
}

func TestActivation(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	if _, err := listenActivated(t.Context(), "", &config{}); err == nil {
		t.Error("took sockets that are somebody else's")
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(shortDir(t), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	notify("READY=1", "STATUS=ready")
	buf := make([]byte, 64)
	n, err := l.Read(buf)
	if got := string(buf[:n]); err != nil || got != "READY=1\nSTATUS=ready" {
		t.Errorf("the manager heard %q, %v", got, err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	f, err := lock(dir, "data-root")
	if err != nil {
		t.Fatal(err)
	}
	_, err = lock(dir, "data-root")
	if err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) || !strings.Contains(err.Error(), "--data-root") {
		t.Errorf("second lock: %v", err)
	}
	f.Close()
	f, err = lock(dir, "data-root")
	if err != nil {
		t.Errorf("after the first is gone: %v", err)
	}
	f.Close()
}

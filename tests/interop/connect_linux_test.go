package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.issue(dir, "ca", nil)
	return a
}

// issue writes <name>.pem and <name>-key.pem. usages tells what it is for; nil
// makes an authority.
func (a *authority) issue(dir, name string, usages []x509.ExtKeyUsage) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: usages,
		IsCA: usages == nil, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := a.cert, a.key
	if usages == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + "-key.pem": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// Over TLS the engine serves those whose certificate its authority signed.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	ours := newAuthority(t, dir)
	ours.issue(dir, "server", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth})
	ours.issue(dir, "cert", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
	stranger := t.TempDir()
	newAuthority(t, stranger).issue(stranger, "cert", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	e := busybox(t, "-H", "tcp://"+addr, "--tlsverify", "--tlscacert", file("ca.pem"), "--tlscert", file("server.pem"), "--tlskey", file("server-key.pem"))
	each(t, e, func(t *testing.T, c client) {
		c.host = "tcp://" + addr
		with := func(certs string) []string {
			return []string{"--tlsverify", "--tlscacert", file("ca.pem"), "--tlscert", filepath.Join(certs, "cert.pem"), "--tlskey", filepath.Join(certs, "cert-key.pem")}
		}
		c.want(t, "^through tls$", append(with(dir), "run", "--rm", "--network", "none", "busybox", "echo", "through tls")...)
		in := c.command(append(with(dir), "run", "-i", "--rm", "--network", "none", "busybox", "cat")...)
		in.Stdin = strings.NewReader("to and fro")
		if r := harness.Do(t, in); r.Code != 0 || r.Stdout != "to and fro" || r.Stderr != "" {
			t.Errorf("input through TLS: %v", r)
		}
		c.refused(t, `(?i)certificate|tls|bad|reset`, append(with(stranger), "ps")...)
		c.refused(t, `(?i)certificate|tls|reset`, "--tls", "--tlscacert", file("ca.pem"), "ps")
		c.refused(t, `(?i)HTTP request to an HTTPS server|malformed|EOF|reset|tls`, "ps")
		// The environment that Docker's documentation tells people to set.
		cmd := c.command("ps", "-q")
		cmd.Args = append(cmd.Args[:1], cmd.Args[3:]...) // without -H
		prefix := "DOCKER_"
		if c.name == "caisson" {
			prefix = "CAISSON_"
		}
		cmd.Env = append(cmd.Env, prefix+"HOST="+c.host, prefix+"TLS_VERIFY=1", prefix+"CERT_PATH="+envCerts(t, dir))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("with %sHOST, TLS_VERIFY and CERT_PATH: %v: %s", prefix, err, out)
		}
	})
}

// envCerts lays certificates out as DOCKER_CERT_PATH wants them.
func envCerts(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	for to, name := range map[string]string{"ca.pem": "ca.pem", "cert.pem": "cert.pem", "key.pem": "cert-key.pem"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A context names an engine once for all.
func TestContexts(t *testing.T) {
	t.Parallel()
	e := busybox(t)
	each(t, e, func(t *testing.T, c client) {
		host := c.host
		c.host = ""
		c.must(t, "context", "create", "--docker", "host="+host, "mine")
		c.want(t, "mine.*"+host, "context", "ls", "--format", "{{.Name}} {{.DockerEndpoint}}")
		c.want(t, "busybox", "--context", "mine", "images", "--format", "{{.Repository}}")
		c.must(t, "context", "use", "mine")
		c.want(t, "(?m)^mine true$", "context", "ls", "--format", "{{.Name}} {{.Current}}")
		c.want(t, "^hi$", "run", "--rm", "--network", "none", "busybox", "echo", "hi")
		c.want(t, host, "context", "inspect", "mine")
		c.must(t, "context", "use", "default")
		c.must(t, "context", "rm", "mine")
	})
}

// Old and new versions of the API serve a life.
func TestAPIVersions(t *testing.T) {
	t.Parallel()
	e := busybox(t)
	all := clients(t, e)
	for _, version := range []string{"1.40", "1.41", "1.44", "1.50", ""} {
		for _, c := range all[1:] {
			if strings.HasPrefix(c.name, "docker-20") && version > "1.41" {
				continue // newer than it is
			}
			harness.Run(t, c.name+" API "+version, func(t *testing.T) {
				if version != "" {
					c.env = []string{"DOCKER_API_VERSION=" + version}
					c.want(t, "^"+version, "version", "--format", "{{.Client.APIVersion}}")
				}
				c.must(t, "run", "-d", "--name", "ver", "--network", "none", "-m", "32m", "--label", "a=b", "busybox", "sh", "-c", "echo out; sleep 1000")
				defer c.run(t, "rm", "-f", "ver")
				c.want(t, "^inside$", "exec", "ver", "echo", "inside")
				c.becomes(t, `^out\n$`, "logs", "ver")
				c.want(t, "^running 33554432$", "inspect", "-f", "{{.State.Status}} {{.HostConfig.Memory}}", "ver")
				c.want(t, `ver .*/ 32MiB`, "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}")
				c.want(t, `ver busybox Up`, "ps", "--filter", "label=a=b", "--format", "{{.Names}} {{.Image}} {{.Status}}")
				c.want(t, `busybox latest`, "images", "--format", "{{.Repository}} {{.Tag}}")
				c.want(t, `^sha256:`, "image", "inspect", "-f", "{{.Id}}", "busybox")
				c.want(t, `(?s)Images\s+\d`, "system", "df")
				c.want(t, `(?s)bridge.*host.*none`, "network", "ls", "--format", "{{.Name}}")
				c.must(t, "cp", "ver:/etc/passwd", t.TempDir())
				c.must(t, "stop", "-t", "0", "ver")
				c.want(t, "^137$", "wait", "ver")
				c.want(t, `ver Exited \(137\)`, "ps", "-a", "--filter", "name=ver", "--format", "{{.Names}} {{.Status}}")
			})
		}
	}
	if len(all) == 1 {
		t.Skip("needs docker (make deps installs it)")
	}
	old := all[1]
	old.env = []string{"DOCKER_API_VERSION=1.39"}
	old.refused(t, `client version 1\.39 is too old\. Minimum supported API version is 1\.40`, "ps")
}

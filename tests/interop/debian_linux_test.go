package interop

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

const helloC = `#include <stdio.h>
#include <unistd.h>
int main(void) { printf("compiled inside, pid %d\n", getpid()); return 7; }
`

// A Debian image that comes from a registry does what people do with one.
func TestDebianFromRegistry(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t)
	archive := testimage.Debian(t)
	reg := testimage.StartRegistry(t)
	image := reg.Addr + "/team/debian-dev:bookworm"
	testimage.Push(t, archive, image)
	e := harness.Start(t)

	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hello.c"), []byte(helloC), 0o644); err != nil {
		t.Fatal(err)
	}
	each(t, e, func(t *testing.T, c client) {
		c.want(t, `Downloaded newer image for `+image, "pull", image)
		c.want(t, `Image is up to date for `+image, "pull", image)
		c.want(t, `^42 linux$`, "run", "--rm", image, "python3", "-c", "import sys, ssl, sqlite3, hashlib; print(6*7, sys.platform)")
		c.want(t, `^git version 2`, "run", "--rm", image, "git", "--version")
		c.want(t, `second`, "run", "--rm", "-w", "/repo", image, "sh", "-ec",
			"git init -q; git config user.email a@b; git config user.name n; for i in first second; do echo $i >f; git add f; git commit -qm $i; done; git log --format=%s")
		harness.Run(t, "compiler", func(t *testing.T) {
			r := c.run(t, "run", "--rm", "-v", dir+":/src:ro", image, "sh", "-c", "gcc -O2 -Wall -o /tmp/hello /src/hello.c && exec /tmp/hello")
			if r.Code != 7 || r.Stdout != "compiled inside, pid 1\n" {
				t.Errorf("a C program: %v", r)
			}
		})
		harness.Run(t, "outbound", func(t *testing.T) { outbound(t, c, image) })
		harness.Run(t, "server", func(t *testing.T) { serve(t, c, image) })
		c.want(t, `Untagged: `+image, "rmi", image)
	})
}

// mirror is what the image's apt asks.
const mirror = "http://deb.debian.org/debian/dists/bookworm/InRelease"

// outbound lets apt talk to Debian through the bridge.
func outbound(t *testing.T, c client, image string) {
	get := http.Client{Timeout: 10 * time.Second}
	resp, err := get.Head(mirror)
	if err != nil {
		t.Skipf("the host itself has no way out: %v", err)
	}
	resp.Body.Close()
	c.want(t, `(?s)Get:\d.*bookworm.*Reading package lists`, "run", "--rm", image, "apt-get", "update", "-o", "Acquire::Languages=none")
	// The name servers are the host's, unless those are its own loopback.
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	inside := c.must(t, "run", "--rm", image, "cat", "/etc/resolv.conf")
	for line := range strings.Lines(string(host)) {
		fields := strings.Fields(line)
		if len(fields) == 2 && fields[0] == "nameserver" && !net.ParseIP(fields[1]).IsLoopback() && !strings.Contains(inside, fields[1]) {
			t.Errorf("resolv.conf inside lacks %s:\n%s", line, inside)
		}
	}
	c.want(t, `\d+\.\d+\.\d+\.\d+`, "run", "--rm", image, "getent", "ahostsv4", "deb.debian.org")
}

// hostAddrs are the host's addresses but for those on bridges, which other engines
// make and remove meanwhile.
func hostAddrs(t *testing.T) (all []net.Addr) {
	t.Helper()
	ifaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ifaces {
		if _, err := os.Stat(filepath.Join("/sys/class/net", i.Name, "bridge")); err == nil {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, addrs...)
	}
	return all
}

// serve asks a web server in a container from the host at every address that
// the host has.
func serve(t *testing.T, c client, image string) {
	name := "web-" + c.name
	c.must(t, "run", "-d", "--name", name, "-p", "8000", image, "python3", "-u", "-m", "http.server", "--bind", "::", "8000")
	defer c.must(t, "rm", "-f", name)
	ports := c.must(t, "port", name, "8000/tcp")
	_, port, err := net.SplitHostPort(strings.Fields(ports)[0])
	if err != nil {
		t.Fatalf("port said %q: %v", ports, err)
	}
	addrs := []string{"127.0.0.1", "::1"}
	for _, a := range hostAddrs(t) {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() && len(addrs) < 6 {
			addrs = append(addrs, ip.IP.String())
		}
	}
	get := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for i, addr := range addrs {
		url := "http://" + net.JoinHostPort(addr, port) + "/etc/debian_version"
		deadline := time.Now().Add(20 * time.Second)
		for {
			resp, err := get.Get(url)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %s", url, resp.Status)
				}
				break
			}
			// Only the first may come before Python listens.
			if i > 0 || time.Now().After(deadline) {
				t.Errorf("%s: %v", url, err)
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	c.becomes(t, fmt.Sprintf(`(?s)(GET /etc/debian_version.*){%d}`, len(addrs)), "logs", name)
}

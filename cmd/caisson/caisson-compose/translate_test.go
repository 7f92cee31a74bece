package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/cmd/caisson/internal/compose"
)

// plan translates a Compose file in a directory of its own.
func plan(t *testing.T, text string, args ...string) (*compose.Project, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "app")
	for name, data := range map[string]string{"compose.yaml": text, "secret.txt": "from a file", ".env": "TAG=7\n"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var out bytes.Buffer
	if err := run(context.Background(), args, &out); err != nil {
		return nil, err
	}
	return compose.Decode(&out)
}

const application = `
services:
  web:
    image: nginx:${TAG}
    ports: ["127.0.0.1:8080:80", "53:53/udp"]
    depends_on: {db: {condition: service_healthy, restart: true}}
    environment: {A: one, B: }
    networks: {default: {aliases: [www]}, back: {ipv4_address: 10.9.0.9, priority: 5}}
    secrets: [mine, {source: theirs, target: short, mode: 0400, uid: "7"}]
    configs: [{source: words, target: /etc/words}]
    isolation: vm
    runtime: runsc
    stop_grace_period: 1m30s
    deploy: {resources: {limits: {cpus: "0.5", memory: 64m}}, mode: global}
  db:
    image: postgres
    command: []
    volumes: ["data:/var/lib", "./conf:/etc/db:ro", "/anonymous", {type: tmpfs, target: /t, tmpfs: {size: 1m}}]
    healthcheck: {test: pg_isready, interval: 1s, retries: 4}
    restart: on-failure:3
  tool:
    image: tool
    profiles: [tools]
    network_mode: service:db
networks:
  back: {internal: true, ipam: {config: [{subnet: 10.9.0.0/24}]}}
volumes: {data: {}}
secrets:
  mine: {file: ./secret.txt}
  theirs: {environment: TAG}
configs:
  words: {content: "tag ${TAG}"}
`

func TestTranslate(t *testing.T) {
	p, err := plan(t, application)
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "app" || len(p.Services) != 2 || p.Services[0].Name != "db" || !slices.Equal(p.Dormant, []string{"tool"}) || !slices.Equal(p.Profiles, []string{"tools"}) {
		t.Fatalf("project: %+v", p)
	}
	db, web := p.Services[0], p.Services[1]
	if db.Config.Cmd == nil || db.Config.Healthcheck.Interval != time.Second || db.Config.Healthcheck.Retries != 4 || db.Host.RestartPolicy.MaximumRetryCount != 3 {
		t.Errorf("db: %+v", db)
	}
	if !slices.Equal(db.Host.Binds, []string{"app_data:/var/lib:rw", filepath.Join(p.Dir, "conf") + ":/etc/db:ro"}) || len(db.Host.Mounts) != 2 {
		t.Errorf("db's volumes: %q %+v", db.Host.Binds, db.Host.Mounts)
	}
	if web.Image != "nginx:7" || web.Config.Cmd != nil || !slices.Equal(web.Config.Env, []string{"A=one", "B"}) || *web.Config.StopTimeout != 90 {
		t.Errorf("web: %+v", web)
	}
	if h := web.Host; h.Isolation != "vm" || h.Runtime != "runsc" || h.Memory != 64<<20 || h.NanoCPUs != 5e8 ||
		h.PortBindings["80/tcp"][0].HostIP != "127.0.0.1" || h.PortBindings["53/udp"][0].HostPort != "53" {
		t.Errorf("web's host: %+v", h)
	}
	if d := web.DependsOn["db"]; d.Condition != compose.Healthy || !d.Restart || !d.Required {
		t.Errorf("web depends on %+v", d)
	}
	if n := web.Networks; len(n) != 2 || n[0].Network != "back" || n[0].Endpoint.IPAMConfig.IPv4Address != "10.9.0.9" || n[1].Endpoint.Aliases[0] != "www" {
		t.Errorf("web's networks: %+v", n)
	}
	if n := p.Networks["back"].Create; n.Name != "app_back" || !n.Internal || n.IPAM.Config[0].Subnet != "10.9.0.0/24" {
		t.Errorf("network: %+v", n)
	}
	if p.Volumes["data"].Create.Name != "app_data" {
		t.Errorf("volumes: %+v", p.Volumes)
	}
	if len(p.Ignored) != 1 || !strings.HasPrefix(p.Ignored[0], "services.web.deploy.mode: ") {
		t.Errorf("ignored: %q", p.Ignored)
	}
}

// A file is mounted as it is; what has an owner, a mode or no file is content.
func TestSecrets(t *testing.T) {
	p, err := plan(t, application)
	if err != nil {
		t.Fatal(err)
	}
	web := p.Service("web")
	if m := web.Host.Mounts; len(m) != 1 || m[0].Target != "/run/secrets/mine" || !m[0].ReadOnly || m[0].Source != filepath.Join(p.Dir, "secret.txt") {
		t.Errorf("mounts: %+v", m)
	}
	if c := web.Contents; len(c) != 2 || c[0].Target != "/run/secrets/short" || string(c[0].Data) != "7" || c[0].Mode != 0o400 || c[0].UID != 7 ||
		c[1].Target != "/etc/words" || string(c[1].Data) != "tag 7" || c[1].Mode != 0o444 {
		t.Errorf("contents: %+v", c)
	}
}

// Who takes the project down need not have its secrets.
func TestMissingSecretsAreMissedLater(t *testing.T) {
	p, err := plan(t, "services: {a: {image: x, env_file: [nosuch.env], secrets: [s, {source: f, mode: 0400}]}}\nsecrets: {s: {environment: NO_SUCH_VARIABLE}, f: {file: nosuch}}", "--whole=false")
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Services[0].Contents; len(c) != 2 || !strings.Contains(c[0].Missing, "NO_SUCH_VARIABLE") || !strings.Contains(c[1].Missing, "nosuch") {
		t.Errorf("contents: %+v", c)
	}
}

// The hashes are those that `docker compose config --hash` of v2.40.3 printed for
// this file: with others, each tool would make the other's containers anew.
func TestHashesAreDockers(t *testing.T) {
	p, err := plan(t, `
name: same
services:
  a: {image: nginx, ports: ["80"], environment: {K: v}, depends_on: [b], scale: 3, profiles: []}
  b: {image: postgres, volumes: ["d:/d"], healthcheck: {test: "true", interval: 5s}, deploy: {replicas: 2, resources: {limits: {memory: 64m}}}}
volumes: {d: }
`)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"a": "f08155793343cdde9d8f32923d91c555b5130fbe1667c0193b708d6db1dc48df",
		"b": "54ab270394de8a26b4599c588b92c646066fd92ccb4370894032e64dbc7cb04a",
	} {
		if got := p.Service(name).Hash; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestNamedServicesNeedNoProfile(t *testing.T) {
	p, err := plan(t, application, "tool")
	if err != nil {
		t.Fatal(err)
	}
	tool := p.Service("tool")
	if tool == nil || tool.Host.NetworkMode != "service:db" || tool.Hashed == "" || p.Service("db") == nil {
		t.Errorf("tool: %+v", tool)
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}":                      "cycle",
		"services: {a: {image: x, scale: 2, container_name: one}}":                                        "container_name",
		"services: {a: {image: x, secrets: [s]}}\nsecrets: {s: {external: true}}":                         "secrets.s.external",
		"services: {a: {image: x, secrets: [{source: s, uid: bob}]}}\nsecrets: {s: {file: ./secret.txt}}": "bob",
		"services: {a: {image: x, provider: {type: y}}}":                                                  "provider",
		"services: {a: {image: x, no_such_key: 1}}":                                                       "no_such_key",
		"services: {a: {image: x}}\ninclude: [\"oci://registry/app\"]":                                    "oci:/registry",
	} {
		if _, err := plan(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\nerror %v, want %q in it", text, err, want)
		}
	}
	t.Chdir(t.TempDir())
	if err := run(context.Background(), nil, &bytes.Buffer{}); !errors.Is(err, errNoFiles) {
		t.Errorf("no files: %v", err)
	}
}

// Every example of a key that means nothing is named by that key.
func TestIgnoredKeysAreNamed(t *testing.T) {
	p, err := plan(t, `
services:
  a:
    image: x
    develop: {watch: [{path: ., action: rebuild}]}
    use_api_socket: true
    post_start: [{command: "true"}]
    pre_stop: [{command: "true"}]
    pull_policy: daily
    deploy:
      update_config: {parallelism: 1}
      rollback_config: {parallelism: 1}
      placement: {constraints: [a==b]}
      endpoint_mode: vip
      restart_policy: {condition: any, delay: 5s}
      resources: {reservations: {cpus: "1"}}
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"develop", "use_api_socket", "post_start", "pre_stop", "pull_policy", "deploy.update_config", "deploy.rollback_config",
		"deploy.placement", "deploy.endpoint_mode", "deploy.restart_policy", "deploy.resources.reservations.cpus",
	} {
		if !slices.ContainsFunc(p.Ignored, func(s string) bool { return strings.HasPrefix(s, "services.a."+key+": ") }) {
			t.Errorf("%s is not named: %q", key, p.Ignored)
		}
	}
}

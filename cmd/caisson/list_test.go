package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// object is JSON.
type object = map[string]any

// fixture is an engine with a few objects. Times are far from any rounding.
func fixture() map[string]answer {
	now := time.Now()
	id := func(s string) string { return strings.Repeat(s, 64)[:64] }
	web := object{
		"Id": id("a1"), "Names": []string{"/web", "/other/alias"}, "Image": "nginx:1.27", "ImageID": "sha256:" + id("e1"),
		"Command": "/docker-entrypoint.sh nginx -g 'daemon off;'", "Created": now.Add(-50 * time.Hour).Unix(), "State": "running",
		"Status": "Up 2 days (healthy)", "Labels": object{"b": "2", "a": "1"}, "SizeRw": 12345, "SizeRootFs": 98765432,
		"Ports": []object{
			{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
			{"PrivatePort": 443, "Type": "tcp"}, {"IP": "0.0.0.0", "PrivatePort": 9001, "PublicPort": 9001, "Type": "udp"}, {"IP": "0.0.0.0", "PrivatePort": 9000, "PublicPort": 9000, "Type": "udp"},
		},
		"Mounts":          []object{{"Type": "bind", "Source": "/a/very/long/path/on/the/host", "Destination": "/d"}, {"Type": "volume", "Name": "data", "Driver": "local"}},
		"NetworkSettings": object{"Networks": object{"bridge": object{}}},
	}
	job := object{
		"Id": id("b2"), "Names": []string{"/job"}, "Image": "sha256:" + id("e2"), "ImageID": "sha256:" + id("e2"), "Command": "true",
		"Created": now.Add(-30 * time.Minute).Unix(), "State": "exited", "Status": "Exited (0) 29 minutes ago", "NetworkSettings": object{"Networks": object{}},
	}
	images := []object{
		{"Id": "sha256:" + id("e1"), "RepoTags": []string{"nginx:1.27", "nginx:latest"}, "RepoDigests": []string{"nginx@sha256:" + id("d1")}, "Created": now.Add(-100 * 24 * time.Hour).Unix(), "Size": 192345678, "SharedSize": -1, "Containers": -1},
		{"Id": "sha256:" + id("e4"), "RepoTags": []string{"localhost:5000/team/web:v1"}, "RepoDigests": []string{"localhost:5000/team/web@sha256:" + id("d1")}, "Created": now.Add(-101 * 24 * time.Hour).Unix(), "Size": 1, "SharedSize": -1, "Containers": -1},
		{"Id": "sha256:" + id("e2"), "RepoTags": []string{}, "RepoDigests": []string{}, "Created": now.Add(-200 * 24 * time.Hour).Unix(), "Size": 5, "SharedSize": -1, "Containers": -1},
		{"Id": "sha256:" + id("e3"), "RepoTags": []string{}, "RepoDigests": []string{"alpine@sha256:" + id("d3")}, "Created": now.Add(-300 * 24 * time.Hour).Unix(), "Size": 7654321, "SharedSize": -1, "Containers": -1},
	}
	webInspect := object{
		"Id": id("a1"), "Name": "/web", "Created": "2026-01-02T03:04:05.678Z", "Path": "nginx", "Args": []string{"-g", "daemon off;"}, "Image": "sha256:" + id("e1"),
		"State":           object{"Status": "running", "Running": true, "Pid": 4321, "ExitCode": 0, "StartedAt": "2026-01-02T03:04:06Z", "FinishedAt": "0001-01-01T00:00:00Z"},
		"HostConfig":      object{"Binds": nil, "NetworkMode": "bridge", "Memory": 536870912, "NanoCpus": 1500000000, "RestartPolicy": object{"Name": "always"}, "PidsLimit": nil},
		"Config":          object{"Image": "nginx:1.27", "Env": []string{"A=1", "B=<2>"}, "Cmd": []string{"nginx"}, "Labels": object{"k": "v"}, "Entrypoint": nil, "Tty": false},
		"Mounts":          []object{{"Type": "bind", "Source": "/h", "Destination": "/d", "RW": true}},
		"NetworkSettings": object{"Ports": object{"80/tcp": []object{{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}}, "443/tcp": nil}, "Networks": object{"bridge": object{"IPAddress": "172.17.0.2", "MacAddress": "92:d0:c6:0a:29:33"}}},
		"ExecIDs":         nil,
	}
	history := []object{
		{"Id": "sha256:" + id("e1"), "Created": now.Add(-100 * 24 * time.Hour).Unix(), "CreatedBy": "CMD [\"nginx\" \"-g\" \"daemon off;\"]\tand a long instruction that goes on", "Size": 0, "Comment": "buildkit.dockerfile.v0", "Tags": []string{"nginx:1.27"}},
		{"Id": "<missing>", "Created": now.Add(-101 * 24 * time.Hour).Unix(), "CreatedBy": "/bin/sh -c #(nop) ADD file", "Size": 74800000, "Comment": ""},
	}
	imageInspect := object{
		"Id": "sha256:" + id("e1"), "RepoTags": []string{"nginx:1.27"}, "RepoDigests": []string{}, "Created": "2026-01-01T00:00:00Z", "Architecture": "amd64", "Os": "linux", "Size": 192345678,
		"Config": object{"Cmd": []string{"nginx"}, "ExposedPorts": object{"80/tcp": object{}}}, "RootFS": object{"Type": "layers", "Layers": []string{"sha256:" + id("f1")}},
	}
	events := []object{
		{"Type": "container", "Action": "start", "Actor": object{"ID": id("a1"), "Attributes": object{"image": "nginx", "name": "web"}}, "scope": "local", "time": 1767323046, "timeNano": 1767323046123456789, "status": "start", "id": id("a1"), "from": "nginx"},
		{"Type": "image", "Action": "pull", "Actor": object{"ID": "nginx:1.27", "Attributes": object{}}, "scope": "local", "time": 1767323047, "timeNano": 1767323047000000000},
	}
	ok := func(v any) answer { return sends(http.StatusOK, v) }
	return map[string]answer{
		"GET /containers/json": func(w http.ResponseWriter, r *http.Request) {
			list := []object{web}
			if r.URL.Query().Get("all") == "1" {
				list = append(list, job)
			}
			if r.URL.Query().Get("size") == "" {
				web := object{}
				for k, v := range list[0] {
					if !strings.HasPrefix(k, "Size") {
						web[k] = v
					}
				}
				list[0] = web
			}
			ok(list)(w, r)
		},
		"GET /containers/web/json":              ok(webInspect),
		"GET /containers/" + id("a1") + "/json": ok(webInspect),
		"GET /containers/*/top":                 ok(object{"Titles": []string{"UID", "PID", "CMD"}, "Processes": [][]string{{"root", "1", "nginx: master process"}, {"www-data", "32", "nginx: worker"}}}),
		"GET /containers/*/changes":             ok([]object{{"Kind": 0, "Path": "/etc"}, {"Kind": 1, "Path": "/etc/new"}, {"Kind": 2, "Path": "/etc/old"}}),
		"GET /containers/*/stats": ok(object{
			"id": id("a1"), "name": "/web", "read": now, "num_procs": 0, "pids_stats": object{"current": 3},
			"cpu_stats":    object{"cpu_usage": object{"total_usage": 200000000}, "system_cpu_usage": 2000000000, "online_cpus": 4},
			"precpu_stats": object{"cpu_usage": object{"total_usage": 100000000}, "system_cpu_usage": 1000000000, "online_cpus": 4},
			"memory_stats": object{"usage": 12582912, "limit": 536870912, "stats": object{"inactive_file": 2097152}},
			"networks":     object{"eth0": object{"rx_bytes": 1500, "tx_bytes": 2500}, "eth1": object{"rx_bytes": 500, "tx_bytes": 500}},
			"blkio_stats":  object{"io_service_bytes_recursive": []object{{"op": "Read", "value": 4096}, {"op": "Write", "value": 8192}}},
		}),
		"GET /images/json":               ok(images),
		"GET /images/nginx:1.27/json":    ok(imageInspect),
		"GET /images/nginx:1.27/history": ok(history),
		"GET /events": func(w http.ResponseWriter, _ *http.Request) {
			for _, e := range events {
				json.NewEncoder(w).Encode(e)
			}
		},
		"GET /images/search":      ok([]object{{"name": "nginx", "description": "Official build of Nginx, with a description that is quite long", "star_count": 20000, "is_official": true}}),
		"POST /containers/*/wait": ok(object{"StatusCode": 3}),
		"POST /networks/prune":    ok(object{"NetworksDeleted": []string{"front"}}),
		"POST /containers/prune":  ok(object{"ContainersDeleted": []string{id("b2")}, "SpaceReclaimed": 12345}),
		"POST /images/prune":      ok(object{"ImagesDeleted": []object{{"Untagged": "a:b"}, {"Deleted": "sha256:x"}}, "SpaceReclaimed": 5}),
		"DELETE /images/*":        ok([]object{{"Untagged": "a:b"}, {"Deleted": "sha256:x"}}),
	}
}

// listCases are command lines whose output must equal that of Docker's command
// line, byte for byte.
var listCases = []string{
	"ps", "ps -a", "ps -a --no-trunc", "ps -aq", "ps -q --no-trunc", "ps -s", "ps -as --format json", "container ls", "ps -n 1",
	"ps --format {{.ID}}|{{.Names}}|{{.Image}}|{{.Command}}|{{.Ports}}|{{.State}}|{{.Status}}|{{.Labels}}|{{.Mounts}}|{{.LocalVolumes}}|{{.Networks}}|{{.RunningFor}}",
	"ps --format 'table {{.Names}}\\t{{.Label \"a\"}}\\t{{.Size}}'", "ps --format '{{json .Names}} {{upper .State}} {{join (split .Image \":\") \"/\"}}'", "ps --format '{{.Nosuch}}'", "ps --format raw",
	"images", "images -a --digests", "images -q", "images --no-trunc", "images --format json", "images --digests --format '{{.Repository}}:{{.Tag}} {{.Digest}} {{.Size}}'", "images --format 'table {{.ID}}\\t{{.CreatedSince}}'",
	"history nginx:1.27", "history --no-trunc nginx:1.27", "history -q nginx:1.27", "history --human=false --format '{{.ID}} {{.Size}} {{.CreatedBy}}' nginx:1.27",
	"inspect web", "inspect -f {{.State.Status}}|{{.State.Pid}}|{{.HostConfig.Memory}}|{{.Name}} web", "inspect -f {{.HostConfig.Binds}}{{.HostConfig.Mounts}}{{.HostConfig.Runtime}}{{.State.Health}} web",
	"inspect -f '{{json .Config.Env}} {{json .Mounts}}' web", "inspect -f '{{range $p, $b := .NetworkSettings.Ports}}{{$p}}={{range $b}}{{.HostPort}} {{end}}{{end}}' web",
	"inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}} {{index .Config.Labels \"k\"}}' web", "inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web",
	"inspect -f '{{.Config.Cmd}} {{.Config.Entrypoint}} {{len .Mounts}}' web", "image inspect nginx:1.27", "inspect --type image -f '{{.Os}}/{{.Architecture}} {{.Config.Cmd}} {{.RootFS.Layers}}' nginx:1.27",
	"inspect -f '{{.Config.ExposedPorts}}' nginx:1.27", "inspect -f {{.Id}} web", "inspect -f {{.ID}} web",
	"top web", "diff web", "port web", "port web 80", "port web 80/tcp", "wait web", "search nginx", "search --no-trunc nginx", "search --format {{.Name}}:{{.StarCount}} nginx",
	"stats --no-stream web", "stats --no-stream --format json web", "stats --no-stream --no-trunc --format '{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.MemPerc}} {{.NetIO}} {{.BlockIO}} {{.PIDs}}' web",
	"events --until 1767323050", "events --until 1767323050 --format json", "events --until 1767323050 --format '{{.Type}} {{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}'",
	"container prune -f", "image prune -f", "rmi x",
}

// normal gives lines that are JSON one order of their keys. An image that is
// known by its digest only has it also where Docker leaves it out.
func normal(s string) string {
	lines := strings.SplitAfter(s, "\n")
	for i, l := range lines {
		var v any
		if strings.HasPrefix(l, "{") && json.Unmarshal([]byte(l), &v) == nil {
			if m := v.(map[string]any); m["Repository"] == "alpine" {
				delete(m, "Digest")
			}
			lines[i] = text(v) + "\n"
		}
	}
	return strings.Join(lines, "")
}

func TestListsLookLikeDockers(t *testing.T) {
	docker := docker28(t)
	m := newMock(t, fixture())
	for _, line := range listCases {
		args := splitWords(line)
		cmd := exec.Command(docker, append([]string{"-H", m.host}, args...)...)
		cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+t.TempDir())
		var errOut strings.Builder
		cmd.Stderr = &errOut
		out, err := cmd.Output()
		r := m.caisson(t, "", args...)
		if normal(string(out)) != normal(r.out) || (err == nil) != (r.code == 0) {
			t.Errorf("%s\n docker: %v\n%s%s\n caisson: %d\n%s%s", line, err, out, errOut.String(), r.code, r.out, r.err)
		}
	}
}

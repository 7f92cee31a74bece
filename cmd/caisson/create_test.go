package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
)

// dockerCLI is the command line whose requests ours must equal.
const dockerCLI = "docker"

// createCases are flags of create. {} stands for a directory with the files that
// flags name.
var createCases = []string{
	"",
	"-i", "-t", "-it", "-a stdout", "-a stdin -a STDERR", "--attach stdin -i",
	"-e A=1 -e B= -e CAISSON_TEST_VAR -e CAISSON_TEST_UNSET", "--env-file {}/env", "--env-file {}/env -e A=2",
	"--label a=b -l c", "--label-file {}/labels -l x=y", "--annotation k=v --annotation other",
	"--entrypoint /bin/sh", "--entrypoint=", "-w /src -u 1000:1000", "-u www-data --group-add audio --group-add 5",
	"-h host --domainname example.com", "--init", "--init=false",
	"--stop-signal INT --stop-timeout 0", "--stop-timeout 30",
	"--restart always", "--restart on-failure:5", "--restart=no", "--rm",
	"-p 80", "-p 8080:80", "-p 127.0.0.1:8080:80/tcp", "-p [::1]:8080:80", "-p 53:53/udp -p 53:53/tcp",
	"-p 8000-8002:9000-9002", "-p 8000-8010:80", "-p published=8080,target=80,protocol=udp", "-p 127.0.0.1::80/sctp",
	"-P --expose 80 --expose 90-92/udp", "--expose 80/udp -p 80:80",
	"-v /host:/in", "-v /host:/in:ro,Z", "-v name:/in", "-v /anonymous", "-v ./rel:/in", "-v /a:/b -v /a:/b -v /c",
	"--volumes-from other:ro --volume-driver local",
	"--mount type=bind,src=/host,dst=/in,readonly", "--mount type=bind,source=/h,target=/t,bind-propagation=rslave,bind-recursive=disabled",
	"--mount type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770", "--mount type=volume,src=v,dst=/v,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=type=nfs,volume-subpath=x",
	"--mount type=image,src=alpine,dst=/i,image-subpath=etc", "--mount dst=/anon", "--mount type=bind,src=/a,dst=/b,ro=false,consistency=cached",
	"--mount type=bind,src=/a,dst=/b,ro,bind-propagation=rprivate,bind-recursive=readonly",
	"--tmpfs /run --tmpfs /tmp:size=64m,mode=1777",
	"-m 512m --memory-swap 1g --memory-reservation 256m --memory-swappiness 10 --oom-kill-disable", "--memory-swap -1 -m 1g", "--memory-swap=-1",
	"--cpus 1.5 -c 512 --cpu-period 100000 --cpu-quota 50000 --cpuset-cpus 0-1 --cpuset-mems 0", "--cpus 0.25", "--cpu-rt-period 1000 --cpu-rt-runtime 500",
	"--pids-limit 100", "--pids-limit -1", "--oom-score-adj -500", "--kernel-memory 0",
	"--ulimit nofile=1024:2048 --ulimit core=0 --ulimit nofile=10", "--ulimit nproc=-1",
	"--blkio-weight 500 --blkio-weight-device /dev/sda:200 --device-read-bps /dev/sda:1mb --device-write-bps /dev/sda:2mb --device-read-iops /dev/sda:100 --device-write-iops /dev/sda:200",
	"--device /dev/fuse --device /dev/null:/dev/zero:r --device /dev/kvm:rw --device /dev/a/../b", "--device-cgroup-rule 'c 13:* rwm'",
	"--device vendor.com/class=dev1", "--gpus all", "--gpus 2", "--gpus device=0 --gpus driver=nvidia,count=3",
	"--cap-add NET_ADMIN --cap-add all --cap-drop CHOWN --privileged", "--read-only",
	"--security-opt no-new-privileges --security-opt label=type:t", "--security-opt seccomp={}/seccomp.json", "--security-opt seccomp=unconfined",
	"--security-opt systempaths=unconfined", "--security-opt apparmor:unconfined --security-opt no-new-privileges=false",
	"--ipc host --pid host --uts host --userns host --cgroupns private", "--pid container:x --ipc container:x",
	"--network none", "--network host", "--network container:abc", "--net bridge", "--network mynet --network-alias a --net-alias b --ip 10.0.0.5 --ip6 fd00::5",
	"--network name=mynet,alias=web,ip=10.1.2.3,mac-address=92:d0:c6:0a:29:33,driver-opt=a=b,gw-priority=5", "--network a --network b", "--mac-address 92:d0:c6:0a:29:33",
	"--link db:d --network mynet", "--link db", "--link-local-ip 169.254.1.2 --network mynet", "--ip 172.17.0.9",
	"--add-host a:1.2.3.4 --add-host b=::1 --add-host c:[fe80::1] --add-host d:host-gateway",
	"--dns 1.1.1.1 --dns 2606:4700::1111 --dns-search example.com --dns-opt ndots:2 --dns-option timeout:1", "--dns-search .",
	"--health-cmd 'curl -f x' --health-interval 5s --health-timeout 1m --health-retries 3 --health-start-period 10s --health-start-interval 1s",
	"--no-healthcheck", "--health-retries 2",
	"--log-driver json-file --log-opt max-size=10m --log-opt max-file=3", "--log-driver none",
	"--sysctl net.core.somaxconn=1024 --sysctl kernel.shmmax=1", "--storage-opt size=10G", "--shm-size 128m",
	"--isolation process --runtime vm", "--isolation hyperv", "--cgroup-parent /x", "--platform linux/arm64 --name n",
	"--cidfile {}/cid.%",
}

// docker28 is the docker command line whose requests and output ours are
// compared with. Other versions differ here and there from it.
func docker28(t *testing.T) string {
	t.Helper()
	docker, err := exec.LookPath(dockerCLI)
	if err != nil {
		t.Skip("needs the docker command line to compare with: " + err.Error())
	}
	if out, err := exec.Command(docker, "--version").Output(); err != nil || !strings.Contains(string(out), "version 28.") {
		t.Skipf("needs the docker command line 28 to compare with, found %s", out)
	}
	return docker
}

func TestCreateSendsWhatDockerSends(t *testing.T) {
	docker := docker28(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"env":          "# comment\n\nA=1\n  B=two words\nCAISSON_TEST_VAR\nCAISSON_TEST_UNSET\nC=\n",
		"labels":       "com.example.a=1\ncom.example.b\n",
		"seccomp.json": "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("CAISSON_TEST_VAR", "from environment")
	t.Setenv("CAISSON_DEFAULT_PLATFORM", "")
	created := sends(http.StatusCreated, map[string]any{"Id": strings.Repeat("a", 64), "Warnings": []string{}})
	theirs := newMock(t, map[string]answer{"POST /containers/create": created})
	ours := newMock(t, map[string]answer{"POST /containers/create": created})
	for _, flags := range createCases {
		t.Run(flags, func(t *testing.T) {
			args := append(append([]string{"create"}, splitWords(strings.ReplaceAll(flags, "{}", dir))...), "alpine", "sh", "-c", "echo hi")
			cmd := exec.Command(docker, append([]string{"-H", theirs.host}, perSide(args, "docker")...)...)
			cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+t.TempDir())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("docker %v: %v\n%s", args, err, out)
			}
			res := ours.caisson(t, "", perSide(args, "caisson")...)
			if res.code != 0 {
				t.Fatalf("caisson %v: exit code %d\n%s", args, res.code, res.err)
			}
			want, got := last(theirs), last(ours)
			if want.Query != got.Query {
				t.Errorf("query: docker sends %q, we %q", want.Query, got.Query)
			}
			compareJSON(t, want.Body, got.Body)
		})
	}
}

// perSide gives each command line a file of its own where both would make one.
func perSide(args []string, who string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = strings.ReplaceAll(a, "%", who)
	}
	return out
}

func last(m *mock) request {
	rs := m.find(http.MethodPost, "/containers/create")
	return rs[len(rs)-1]
}

// splitWords splits at spaces outside single quotes.
func splitWords(s string) []string {
	var out []string
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// notCompared are fields that differ for a reason.
var notCompared = map[string]string{
	"HostConfig.ContainerIDFile": "the two sides write two files",
	"OnBuild":                    "create has no flag for it",
}

func compareJSON(t *testing.T, want, got []byte) {
	t.Helper()
	var w, g map[string]any
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatal(err)
	}
	compare(t, "", w, g)
}

// compare wants equal values; a field that is missing equals null.
func compare(t *testing.T, path string, want, got any) {
	t.Helper()
	w, wok := want.(map[string]any)
	g, gok := got.(map[string]any)
	if !wok || !gok {
		if anyOrder[path] {
			want, got = ordered(want), ordered(got)
		}
		if !reflect.DeepEqual(want, got) {
			t.Errorf("%s: docker sends %s, we %s", path, text(want), text(got))
		}
		return
	}
	keys := map[string]bool{}
	for k := range w {
		keys[k] = true
	}
	for k := range g {
		keys[k] = true
	}
	sorted := make([]string, 0, len(keys))
	for k := range keys {
		sorted = append(sorted, k)
	}
	sort.Strings(sorted)
	for _, k := range sorted {
		p := strings.TrimPrefix(path+"."+k, ".")
		if _, skip := notCompared[p]; !skip {
			compare(t, p, w[k], g[k])
		}
	}
}

// anyOrder are lists whose order in Docker's request changes from run to run.
var anyOrder = map[string]bool{"Env": true}

// ordered sorts a list of strings; other values stay.
func ordered(v any) any {
	list, ok := v.([]any)
	if !ok {
		return v
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b any) int { return strings.Compare(text(a), text(b)) })
	return list
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// badCases are flags of create that Docker refuses without asking an engine.
var badCases = []string{
	"-p 80:90:100:x", "-p 99999", "-p 1-3:5-6", "-p 80/xyz", "-p :", "-p 1:", "-p a:80", "-p published=1,bogus",
	"-v :/x", "-v /a:", "--mount type=bind,bogus=1", "--mount type=bind,ro=maybe", "--mount target", "--mount ''",
	"--mount type=tmpfs,bind-propagation=shared,dst=/x", "--mount 'type=bind, src=/a,dst=/b'",
	"--mount type=bind,bind-recursive=sometimes", "--mount type=bind,src=/a,dst=/b,bind-recursive=readonly", "--mount type=tmpfs,tmpfs-size=x,dst=/a",
	"--ulimit nofile", "--ulimit nosuch=1", "--ulimit nofile=10:5", "-e =x", "--env-file /nosuch", "--label =x", "--label 'a b=c'",
	"-a nowhere", "--add-host a", "--add-host a:b", "--dns x", "--dns-search -bad-", "--link a:b:c", "--link ''", "--sysctl kernel.panic=1",
	"--device a:b:c:d", "--device /dev/x:/dev/y:q", "--device relative", "--device-cgroup-rule bad", "--device-cgroup-rule 'x 1:2 rwm'",
	"--device-read-bps /dev/a", "--device-read-bps a:1", "--device-read-bps /dev/a:x", "--device-read-iops /dev/a:1mb", "--blkio-weight-device /dev/a:5",
	"--cpus x", "--cpus 0.0000000001", "-m x", "-m 1q", "--pids-limit x", "--memory-swappiness 200", "--gpus x", "--gpus count=1,count=2", "--gpus bogus=1",
	"--pid bogus", "--uts bogus", "--cgroupns bogus", "--restart :1", "--restart on-failure:x", "--rm --restart always",
	"--log-driver none --log-opt a=b", "--security-opt bogus", "--security-opt seccomp=/nosuch", "--storage-opt size",
	"--no-healthcheck --health-cmd x", "--health-interval -1s", "--health-retries -1", "--expose x", "--expose 5-3",
	"--network bogus=x", "--network a --network a", "--network a --network bridge", "--network-alias x",
	"--network name=a,ip=1.2.3.4 --ip 1.2.3.5", "--mac-address x", "--nosuch", "--pull sometimes", "--label-file /nosuch",
}

// saidOtherwise are cases in which newer versions of Docker, and we, say more.
var saidOtherwise = map[string]bool{
	"--mount type=bind,bogus=1": true, "--mount type=bind,ro=maybe": true, "--mount ''": true, "--mount 'type=bind, src=/a,dst=/b'": true,
	"--env-file /nosuch": true, "--label-file /nosuch": true, "--gpus x": true, "--expose x": true, "--expose 5-3": true,
}

func TestCreateRefusesWhatDockerRefuses(t *testing.T) {
	docker := docker28(t)
	created := sends(http.StatusCreated, map[string]any{"Id": strings.Repeat("a", 64)})
	m := newMock(t, map[string]answer{"POST /containers/create": created})
	for _, flags := range badCases {
		args := append(append([]string{"create"}, splitWords(flags)...), "alpine")
		cmd := exec.Command(docker, append([]string{"-H", m.host}, args...)...)
		cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+t.TempDir())
		out, err := cmd.CombinedOutput()
		r := m.caisson(t, "", args...)
		if err == nil {
			t.Errorf("%s: docker accepts it: %s; we say %+v", flags, out, r)
			continue
		}
		want, _, _ := strings.Cut(strings.TrimPrefix(string(out), "docker: "), "\n")
		got, _, _ := strings.Cut(strings.TrimPrefix(r.err, "caisson: "), "\n")
		if r.code == 0 || !strings.EqualFold(got, want) && !saidOtherwise[flags] {
			t.Errorf("%s: exit code %d\n docker: %s\n caisson: %s", flags, r.code, want, got)
		}
	}
}

package engine_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	apicontainer "github.com/moby/moby/api/types/container"

	"github.com/caisson-engine/caisson/engine"
	"github.com/caisson-engine/caisson/engine/audit"
	"github.com/caisson-engine/caisson/engine/enginetest"
	"github.com/caisson-engine/caisson/engine/policy"
)

// entries reads the audit log.
func (h *house) entries() (out []audit.Entry) {
	h.t.Helper()
	f, err := os.Open(h.audit)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var e audit.Entry
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			h.t.Fatalf("%s: %v", s.Text(), err)
		}
		out = append(out, e)
	}
	return out
}

// The socket is no longer root: what gives power over the host is refused to a
// tenant, with the rule and what to do, and noted.
func TestTheSocketIsNotRoot(t *testing.T) {
	h := newHouse(t, twoTenants+`
rules:
  - name: beta may
    match: {tenant: beta}
    allow: {host_paths: ["/srv/beta:ro"], capabilities: [NET_ADMIN], devices: ["/dev/beta/*"], host_network: true}
`)
	for _, as := range []string{alpha, beta, owner} {
		h.importImage(as, "img", "1", as)
	}
	for name, host := range map[string]string{
		"privileged":             `{"Privileged":true}`,
		"--network host":         `{"NetworkMode":"host"}`,
		"--pid host":             `{"PidMode":"host"}`,
		"--ipc host":             `{"IpcMode":"host"}`,
		"--uts host":             `{"UTSMode":"host"}`,
		"--userns host":          `{"UsernsMode":"host"}`,
		"--cgroupns host":        `{"CgroupnsMode":"host"}`,
		"the host path /etc":     `{"Binds":["/etc:/x"]}`,
		"the host path /etc:ro":  `{"Mounts":[{"Type":"bind","Source":"/etc/","Target":"/x","ReadOnly":true}]}`,
		"the host path (has ..)": `{"Binds":["/srv/beta/link/..:/x:ro"]}`,
		"the host path /etc/ssl": `{"Mounts":[{"Type":"volume","Source":"v1","Target":"/x","VolumeOptions":{"DriverConfig":{"Options":{"type":"none","o":"bind","device":"/etc/ssl"}}}}]}`,
		"the host path /etc/x":   `{"Mounts":[{"Type":"volume","Source":"v2","Target":"/x","VolumeOptions":{"DriverConfig":{"Options":{"type":"tmpfs","o":"size=1m,rbind","device":"/etc/x"}}}}]}`,
		"the device mount:nfs::/srv,addr=10.0.0.1": `{"Mounts":[{"Type":"volume","Source":"v3","Target":"/x","VolumeOptions":{"DriverConfig":{"Options":{"type":"nfs","o":"addr=10.0.0.1","device":":/srv"}}}}]}`,
		"the device mount:overlay":                 `{"Mounts":[{"Type":"volume","Target":"/x","VolumeOptions":{"DriverConfig":{"Options":{"type":"overlay","o":"lowerdir=/etc","device":"overlay"}}}}]}`,
		"the device /dev/fuse":                     `{"Devices":[{"PathOnHost":"/dev/fuse","PathInContainer":"/dev/fuse","CgroupPermissions":"rwm"}]}`,
		"the device (has ..)":                      `{"Devices":[{"PathOnHost":"/dev/beta/../sda","PathInContainer":"/dev/x","CgroupPermissions":"rwm"}]}`,
		"the device cgroup:a":                      `{"DeviceCgroupRules":["a *:* rwm"]}`,
		"--cap-add SYS_ADMIN":                      `{"CapAdd":["CAP_SYS_ADMIN"]}`,
		"--cap-add ALL":                            `{"CapAdd":["all"]}`,
		"a seccomp profile":                        `{"SecurityOpt":["seccomp=unconfined"]}`,
		"apparmor=unconfined":                      `{"SecurityOpt":["apparmor:unconfined"]}`,
		"systempaths":                              `{"MaskedPaths":[]}`,
		"writable-cgroups":                         `{"SecurityOpt":["writable-cgroups=true"]}`,
		"--cgroup-parent /":                        `{"CgroupParent":"/"}`,
		"the host port 80":                         `{"PortBindings":{"80/tcp":[{"HostPort":"80"}]}}`,
		"mount propagation":                        `{"Binds":["/srv/beta:/x:ro,rshared"]}`,
		"--oom-score-adj":                          `{"OomScoreAdj":-500}`,
		"--oom-kill-disable":                       `{"OomKillDisable":true}`,
		"--cpu-rt-runtime":                         `{"CpuRealtimeRuntime":1000}`,
		"--ulimit rtprio":                          `{"Ulimits":[{"Name":"rtprio","Soft":9,"Hard":9}]}`,
		"--annotation run.oci.x":                   `{"Annotations":{"run.oci.x":"1"}}`,
	} {
		body := `{"Image":"img:1","Cmd":["true"],"HostConfig":` + host + `}`
		for _, as := range []string{alpha, beta} {
			may := as == beta && name == "--network host"
			r := h.ask(as, "POST", "/containers/create", body)
			rule := map[string]string{alpha: "no rule matches", beta: `rule \"beta may\"`}[as]
			switch {
			case may && r.status != 201:
				t.Errorf("%s: %s may: %d %s", name, as, r.status, r.body)
			case !may && (r.status != 403 || !strings.Contains(r.body, rule) || !strings.Contains(r.body, "ask the host's owner to allow it")):
				t.Errorf("%s as %s: %d %s", name, as, r.status, r.body)
			case !may && !strings.Contains(r.body, name):
				if name != "privileged" {
					t.Errorf("%s as %s is not named: %s", name, as, r.body)
				}
			}
		}
		if r := h.ask(owner, "POST", "/containers/create", body); r.status == 403 {
			t.Errorf("%s: an admin is refused: %s", name, r.body)
		}
	}
	for body, want := range map[string]int{
		`{"Image":"img:1","Cmd":["true"],"HostConfig":{"CapAdd":["NET_ADMIN","CHOWN"],"PortBindings":{"80/tcp":[{"HostPort":"8080"}]}}}`: 201,
		`{"Image":"img:1","Cmd":["true"],"HostConfig":{"Binds":["/srv/beta:/x"]}}`:                                                       403,
		`{"Image":"img:1","Cmd":["true"],"HostConfig":{"Binds":["/srv/beta/below:/x:ro"]}}`:                                              403,
	} {
		if r := h.ask(beta, "POST", "/containers/create", body); r.status != want {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
	}
	denied := 0
	for _, e := range h.entries() {
		if e.Outcome != audit.Denied {
			continue
		}
		denied++
		if e.Status != 403 || e.Rule == "" || e.Client == "" || e.Tenant == "" || e.Action != "create a container" || e.Made != "" || e.Reason == "" {
			t.Errorf("%+v", e)
		}
	}
	if denied < 40 {
		t.Errorf("%d denials were noted", denied)
	}
	// Nor by a volume that is made first.
	for opts, want := range map[string]int{
		`{"type":"none","o":"bind","device":"/etc"}`:         403,
		`{"type":"ext4","device":"/dev/sda"}`:                403,
		`{"type":"none","o":"bind,ro","device":"/srv/beta"}`: 201,
		`{"type":"none","o":"bind","device":"/srv/beta"}`:    403,
		`{"type":"tmpfs","o":"size=1m","device":"tmpfs"}`:    201,
	} {
		if r := h.ask(beta, "POST", "/volumes/create", `{"DriverOpts":`+opts+`}`); r.status != want {
			t.Errorf("volume %s: %d %s", opts, r.status, r.body)
		}
	}
}

// What a tenant does is noted with who, what and by which rule.
func TestAudit(t *testing.T) {
	h := newHouse(t, twoTenants)
	h.importImage(alpha, "img", "1", "x")
	id := h.made(h.must(alpha, "POST", "/containers/create?name=aa", `{"Image":"img:1","Cmd":["true"]}`))
	h.must(alpha, "POST", "/v1.50/containers/aa/start", nil)
	h.must(alpha, "GET", "/containers/aa/json", nil)
	h.ask(beta, "DELETE", "/containers/"+id+"?force=1", nil)
	h.must(owner, "DELETE", "/containers/"+id+"?force=1", nil)
	var got []string
	for _, e := range h.entries() {
		got = append(got, fmt.Sprintf("%s %s %s %s %s", e.Client, e.Tenant, e.Method, strings.ReplaceAll(e.Path, id, "ID"), e.Outcome))
		if e.Action == "create a container" && (e.Made != id || e.Level != "process" || e.Object != "aa") {
			t.Errorf("%+v", e)
		}
	}
	want := []string{
		"uid:1001 alpha POST /images/create allowed",
		"uid:1001 alpha POST /containers/create allowed",
		"uid:1001 alpha POST /containers/aa/start allowed",
		"uid:1002 beta DELETE /containers/ID failed",
		"uid:0  DELETE /containers/ID allowed",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (h *house) reload(file string) {
	h.t.Helper()
	p, err := policy.Parse([]byte(file))
	if err != nil {
		h.t.Fatal(err)
	}
	h.e.Reload(h.cfg.Defaults, p)
}

// A changed policy holds for what is made from then on; what it would not allow
// any more is listed, and its tenant can end it but not use it.
func TestChangedPolicy(t *testing.T) {
	allow := twoTenants + "rules: [{name: may, match: {tenant: alpha}, allow: {capabilities: [NET_ADMIN]}}]"
	h := newHouse(t, allow)
	h.importImage(alpha, "img", "1", "x")
	body := `{"Image":"img:1","Cmd":["sh","-c","hang"],"HostConfig":{"CapAdd":["NET_ADMIN"]}}`
	run := h.made(h.must(alpha, "POST", "/containers/create?name=run", body))
	h.must(alpha, "POST", "/containers/run/start", nil)
	idle := h.made(h.must(alpha, "POST", "/containers/create?name=idle", body))
	if r := h.must(owner, "GET", "/caisson/policy/violations", nil); strings.TrimSpace(r) != "[]" {
		t.Errorf("before: %s", r)
	}
	h.reload(twoTenants)
	var v []struct{ ID, Name, Tenant, State, Rule, Reason string }
	if err := json.Unmarshal([]byte(h.must(owner, "GET", "/caisson/policy/violations", nil)), &v); err != nil || len(v) != 2 ||
		v[0].ID != idle || v[1].ID != run || v[1].State != "running" || v[1].Tenant != "alpha" || !strings.Contains(v[1].Reason, "NET_ADMIN") {
		t.Errorf("%+v %v", v, err)
	}
	if r := h.must(beta, "GET", "/caisson/policy/violations", nil); strings.TrimSpace(r) != "[]" {
		t.Errorf("another tenant: %s", r)
	}
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/containers/create", body, 403},
		{"POST", "/containers/idle/start", "", 403},
		{"POST", "/containers/run/restart", "", 403},
		{"POST", "/containers/run/exec", `{"Cmd":["true"]}`, 403},
		{"POST", "/containers/run/attach?stream=1&stdin=1", "", 403},
		{"POST", "/containers/run/update", `{"Memory":67108864}`, 403},
		{"PUT", "/containers/run/archive?path=/", "", 403},
		{"GET", "/containers/run/json", "", 200},
		{"GET", "/containers/run/logs?stdout=1", "", 200},
		{"POST", "/containers/run/stop?t=0", "", 204},
		{"DELETE", "/containers/run", "", 204},
	} {
		var b any
		if c.body != "" {
			b = c.body
		}
		if r := h.ask(alpha, c.method, c.path, b); r.status != c.want {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, r.status, r.body, c.want)
		}
	}
	h.reload(allow)
	h.must(alpha, "POST", "/containers/idle/start", nil)
	// A privileged exec is a privilege, too.
	if r := h.ask(alpha, "POST", "/containers/idle/exec", `{"Cmd":["true"],"Privileged":true}`); r.status != 403 || !strings.Contains(r.body, "--privileged") {
		t.Errorf("privileged exec: %d %s", r.status, r.body)
	}
}

// What was made before there were tenants is the host owner's.
func TestTenantsComeLater(t *testing.T) {
	h := newHouse(t, "")
	h.importImage(alpha, "img", "1", "x")
	h.must(alpha, "POST", "/containers/create?name=old", `{"Image":"img:1","Cmd":["true"],"HostConfig":{"Privileged":true}}`)
	h.must(beta, "GET", "/containers/old/json", nil)
	h.reload(twoTenants)
	for _, path := range []string{"/containers/old/json", "/images/img:1/json"} {
		if r := h.ask(alpha, "GET", path, nil); r.status != 404 {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	h.must(owner, "DELETE", "/containers/old", nil)
}

func TestQuotas(t *testing.T) {
	h := newHouse(t, `
tenants:
  - name: alpha
    uids: [1001]
    quota: {containers: 3, memory: 300m, cpus: 2, pids: 100, published_ports: 2}
  - {name: beta, uids: [1002]}
`)
	h.importImage(alpha, "img", "1", "x")
	create := func(name, host string) reply {
		return h.ask(alpha, "POST", "/containers/create?name="+name, `{"Image":"img:1","Cmd":["true"],"HostConfig":`+host+`}`)
	}
	full := `{"Memory":104857600,"NanoCpus":500000000,"PidsLimit":30%s}`
	for _, c := range []struct {
		name, host string
		want       int
		says       string
	}{
		{"open", `{}`, 403, "give --memory"},
		{"one", fmt.Sprintf(full, ""), 201, ""},
		{"ports", fmt.Sprintf(full, `,"PortBindings":{"80/tcp":[{},{}],"81/tcp":[{}]}`), 403, "published ports"},
		{"two", fmt.Sprintf(full, `,"PortBindings":{"80/tcp":[{},{}]}`), 201, ""},
		{"big", `{"Memory":209715200,"NanoCpus":500000000,"PidsLimit":30}`, 403, "300m allowed, 200m in use, 200m asked for"},
		{"pids", `{"Memory":104857600,"NanoCpus":500000000,"PidsLimit":50}`, 403, "processes"},
		{"cpus", `{"Memory":104857600,"NanoCpus":1500000000,"PidsLimit":30}`, 403, "cpus"},
		{"three", fmt.Sprintf(full, ""), 201, ""},
		{"four", fmt.Sprintf(full, ""), 403, "containers: 3 allowed"},
	} {
		if r := create(c.name, c.host); r.status != c.want || !strings.Contains(r.body, c.says) || c.want == 403 && !strings.Contains(r.body, "quota of tenant alpha") {
			t.Errorf("%s: %d %s", c.name, r.status, r.body)
		}
	}
	if r := h.ask(alpha, "POST", "/containers/one/update", `{"Memory":209715200,"MemorySwap":409715200}`); r.status != 403 {
		t.Errorf("update beyond the quota: %d %s", r.status, r.body)
	}
	h.must(alpha, "DELETE", "/containers/three", nil)
	h.must(alpha, "POST", "/containers/one/update", `{"Memory":157286400,"MemorySwap":409715200}`)
	// What is asked for at the same moment does not slip in together.
	results := make(chan reply)
	for i := range 8 {
		go func() {
			results <- create(fmt.Sprint("racer", i), `{"Memory":6291456,"NanoCpus":100000000,"PidsLimit":1}`)
		}()
	}
	in := 0
	for range 8 {
		if r := <-results; r.status == 201 {
			in++
		}
	}
	if in != 1 {
		t.Errorf("%d slipped in where one fits", in)
	}
}

// Explain tells what a create would, and makes nothing.
func TestExplain(t *testing.T) {
	h := newHouse(t, twoTenants+`
rules:
  - name: alphas
    match: {tenant: alpha, image: ["127.0.0.1:1/*"]}
    defaults: {memory: 64m}
    deny: false
  - name: no beta
    match: {tenant: beta}
    deny: betas are on holiday
`)
	type answer struct {
		Allowed                                       bool
		Level, Backend, Rule, Reason, Refused, Tenant string
		Options                                       []string
		Memory                                        int64
		ImageHere                                     bool
	}
	for _, c := range []struct {
		as, query, image, host string
		want                   answer
	}{
		{alpha, "", "127.0.0.1:1/x", `{}`, answer{Allowed: true, Level: "process", Backend: "fake", Rule: "alphas", Tenant: "alpha", Memory: 64 << 20}},
		{alpha, "", "x", `{}`, answer{Allowed: true, Level: "process", Backend: "fake", Tenant: "alpha"}},
		{alpha, "", "x", `{"Privileged":true}`, answer{Rule: policy.NoRule, Tenant: "alpha", Options: []string{"--privileged"}}},
		{owner, "", "x", `{"Privileged":true}`, answer{Allowed: true, Level: "process", Backend: "fake", Options: []string{"--privileged"}}},
		{owner, "?as=uid:1002", "x", `{}`, answer{Rule: "no beta", Tenant: "beta"}},
	} {
		var got answer
		r := h.must(c.as, "POST", "/caisson/policy/explain"+c.query, fmt.Sprintf(`{"Image":%q,"HostConfig":%s}`, c.image, c.host))
		if err := json.Unmarshal([]byte(r), &got); err != nil {
			t.Fatal(err)
		}
		if got.Allowed != c.want.Allowed || got.Level != c.want.Level || got.Backend != c.want.Backend || got.Rule != c.want.Rule ||
			got.Tenant != c.want.Tenant || got.Memory != c.want.Memory || strings.Join(got.Options, " ") != strings.Join(c.want.Options, " ") ||
			got.Allowed == (got.Refused != "") || got.ImageHere {
			t.Errorf("%+v: %s", c, r)
		}
	}
	if r := h.ask(alpha, "POST", "/caisson/policy/explain?as=uid:0", `{"Image":"x"}`); r.status != 403 {
		t.Errorf("a tenant asks about root: %d %s", r.status, r.body)
	}
	if r := h.must(owner, "GET", "/containers/json?all=1", nil); strings.TrimSpace(r) != "[]" {
		t.Errorf("explaining made something: %s", r)
	}
}

// A tenant uses what the owner shares under its shared name, and cannot change it.
func TestSharedImages(t *testing.T) {
	h := newHouse(t, twoTenants)
	base := h.importImage(owner, "shared/base", "1", "base")
	h.must(owner, "POST", "/images/shared/base:1/tag?repo=shared/base&tag=internal", nil)
	hidden := h.importImage(owner, "hidden", "1", "hidden")
	for ref, want := range map[string]int{
		"shared/base:1": 200, base: 200, base[7:19]: 200, "shared/base:internal": 404, "hidden:1": 404, hidden: 404, hidden[7:19]: 404,
	} {
		if r := h.ask(alpha, "GET", "/images/"+ref+"/json", nil); r.status != want || r.status == 200 && strings.Contains(r.body, "internal") {
			t.Errorf("%s: %d %s", ref, r.status, r.body)
		}
	}
	for _, path := range []string{"/images/json?all=1", "/images/shared/base:1/history"} {
		if r := h.must(alpha, "GET", path, nil); !strings.Contains(r, "shared/base:1") || strings.Contains(r, "internal") || strings.Contains(r, hidden) {
			t.Errorf("%s: %s", path, r)
		}
	}
	if r := h.ask(alpha, "DELETE", "/images/shared/base:1?force=1", nil); r.status != 403 {
		t.Errorf("delete: %d %s", r.status, r.body)
	}
	if r := h.ask(alpha, "GET", "/images/get?names=shared/base", nil); r.status == 200 {
		t.Errorf("a save of every tag: %d", r.status)
	}
	// A container on it, an image of that, and a name of one's own.
	h.must(alpha, "POST", "/containers/create?name=cc", `{"Image":"shared/base:1","Cmd":["sh","-c","hang"]}`)
	h.must(alpha, "POST", "/containers/cc/start", nil)
	h.must(alpha, "PUT", "/containers/cc/archive?path=/", oneFile(t, "more", "x"))
	h.must(alpha, "POST", "/images/shared/base:1/tag?repo=mine&tag=1", nil)
	if r := h.ask(beta, "GET", "/images/mine:1/json", nil); r.status != 404 {
		t.Errorf("another tenant's copy: %d %s", r.status, r.body)
	}
	h.must(alpha, "POST", "/commit?container=cc&repo=mine&tag=2", nil)
	h.must(alpha, "DELETE", "/images/mine:1?force=1", nil)
	h.must(owner, "GET", "/images/shared/base:1/json", nil)
	// Its owner needs it while a tenant's container stands on it.
	if r := h.ask(owner, "DELETE", "/images/"+base, nil); r.status != 409 {
		t.Errorf("the owner deletes what is used: %d %s", r.status, r.body)
	}
	// No name that a client gave makes an image trusted.
	h.reload(twoTenants + "rules: [{name: trusted, match: {image: \"trusted/*\"}, allow: {privileged: true}}]")
	h.importImage(alpha, "trusted/image", "1", "evil")
	if r := h.ask(alpha, "POST", "/containers/create", `{"Image":"trusted/image:1","Cmd":["true"],"HostConfig":{"Privileged":true}}`); r.status != 403 {
		t.Errorf("an image called trusted by a tenant: %d %s", r.status, r.body)
	}
}

// A tenant's ps shows no process of others, whatever columns it is asked for.
func TestTopOfTenants(t *testing.T) {
	h := newHouse(t, twoTenants)
	h.importImage(alpha, "img", "1", "x")
	h.must(alpha, "POST", "/containers/create?name=aa", `{"Image":"img:1","Cmd":["sh","-c","hang"]}`)
	h.must(alpha, "POST", "/containers/aa/start", nil)
	for args, ok := range map[string]bool{
		"": true, "-ef": true, "aux": true, "-eo+pid,args": true, "axo+pid,user": true, "-e+-o+pid,comm+-f": true,
		"-eo+etimes%3DPID,args": false, "-eo+args,pid": false, "-o+uid%3DPID": false, "--help": false, "-eo+pid%3DX,uid%3DPID": false, "-o": false, "-eo+pid:3,args": false,
	} {
		if r := h.ask(alpha, "GET", "/containers/aa/top?ps_args="+args, nil); (r.status == 403) == ok {
			t.Errorf("%s: %d %s", args, r.status, r.body)
		}
	}
	if r := h.ask(owner, "GET", "/containers/aa/top?ps_args=-eo+args,pid", nil); r.status == 403 {
		t.Errorf("an admin: %d %s", r.status, r.body)
	}
}

// A backend that says that its wall is emulated is used only if the host's owner
// says so, and then everybody is told.
func TestEmulatedBackend(t *testing.T) {
	for file, ok := range map[string]bool{"": false, "allow_emulation: true": true} {
		p, err := policy.Parse([]byte(file))
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t, func(c *engine.Config, l *enginetest.Launcher) {
			c.Policy = p
			l.Options.Facts = map[string]string{"accelerator": "tcg"}
		})
		made, err := r.e.Create(r.ctx(), engine.CreateRequest{Config: &apicontainer.Config{Image: "img"}})
		if !ok {
			if policy.RuleOf(err) != "allow_emulation" || !strings.Contains(err.Error(), "allow_emulation: true") {
				t.Errorf("%q: %v", file, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		x, err := r.e.Inspect(r.ctx(), made.ID, false)
		if err != nil || x.HostConfig.Annotations["caisson.emulated"] != "true" || !strings.Contains(x.HostConfig.Annotations["caisson.policy.reason"], "no security boundary") {
			t.Errorf("%v %v", x.HostConfig.Annotations, err)
		}
		r.e.Reload(engine.Defaults{}, &policy.Policy{})
		if v := r.e.Violations(r.ctx()); len(v) != 1 || v[0].Rule != "allow_emulation" {
			t.Errorf("%+v", v)
		}
	}
}

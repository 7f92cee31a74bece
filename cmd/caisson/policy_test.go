package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPolicyCheck(t *testing.T) {
	for _, c := range []struct {
		name, file string
		code       int
		out, err   string
	}{
		{"levels only", "default_level: vm\n", 0, "0 rules, 0 tenants; no tenants, admins or others: everyone who reaches the socket is an admin", ""},
		{"tenants", "tenants: [{name: a, uids: [1]}]\nrules: [{name: r}]\n", 0, "1 rule, 1 tenant\n", ""},
		{"a warning", "rules: [{name: r}, {name: s}]\n", 0, `WARNING: rule "s" is never reached`, ""},
		{"a mistake", "rules:\n- name: r\n  alow: {}\n", 1, "", `line 3: there is no key "alow" here`},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, "policy.yaml", c.file)
			got := runApp(t, "", "policy", "check", path)
			if got.code != c.code || !strings.Contains(got.out, c.out) || !strings.Contains(got.err, c.err) || c.err != "" && !strings.Contains(got.err, path) {
				t.Errorf("%+v", got)
			}
			if q := runApp(t, "", "policy", "check", "-q", path); q.code != c.code || q.out != "" {
				t.Errorf("quiet: %+v", q)
			}
		})
	}
	if got := runApp(t, "", "policy", "check", filepath.Join(t.TempDir(), "none")); got.code != 1 || !strings.Contains(got.err, "no such file") {
		t.Errorf("%+v", got)
	}
}

const casesPolicy = `
tenants: [{name: web, uids: [1001]}, {name: ci, certs: ["ci-*"]}]
rules:
- name: ci
  match: {tenant: ci, image: "reg.example/*"}
  allow: {host_paths: ["/srv/cache"], capabilities: [SYS_PTRACE]}
- name: small
  match: {tenant: web}
  level: vm
  limits: {memory: 1g}
`

func TestPolicyTest(t *testing.T) {
	policy := write(t, "p.yaml", casesPolicy)
	good := write(t, "cases.yaml", `
cases:
- {name: one, as: "cert:ci-1", run: "-v /srv/cache:/c --cap-add=SYS_PTRACE reg.example/x sh -c 'make all'", want: process, rule: ci}
- {name: two, as: "cert:ci-1", run: "-v /srv/cache/x:/c reg.example/x", want: denied, rule: ci, says: "/srv/cache/x"}
- {name: three, as: "uid:1001", run: "-d --name n -m 512m nginx", want: hyperv, rule: small}
- {name: four, as: "uid:1001", run: "-m 2g nginx", want: denied, says: memory to 1g}
- {name: five, as: "uid:1001", run: "--isolation process nginx", want: denied, rule: small}
- {name: six, run: "--privileged --security-opt systempaths=unconfined --pid host nginx", want: allowed}
- {name: seven, as: "uid:7", run: "--security-opt systempaths=unconfined nginx", want: denied, says: masked}
- {name: eight, as: "uid:7", run: "-p 443:443 --network none nginx", want: denied, says: the host port 443}
`)
	if got := runApp(t, "", "policy", "test", "--policy", policy, good); got.code != 0 || strings.Count(got.out, "\nok") != 8 || !strings.Contains(got.out, "RESULT") {
		t.Errorf("%+v", got)
	}
	if got := runApp(t, "", "policy", "test", "-q", "--policy", policy, good); got.code != 0 || got.out != "" {
		t.Errorf("quiet: %+v", got)
	}
	bad := write(t, "cases.yaml", "levels: [process]\ncases:\n- {name: one, run: nginx, want: denied}\n- {name: two, as: 'uid:1001', run: nginx, want: allowed}\n- {name: three, run: nginx, want: process}")
	got := runApp(t, "", "policy", "test", "--policy", policy, "--format", "{{.Result}} {{.Name}} {{.Got}}", bad)
	if got.code != 1 || got.out != "FAIL one process\nFAIL two error\nok three process\n" || !strings.Contains(got.err, "2 cases of 3 decided otherwise") {
		t.Errorf("%+v", got)
	}
	// Beside the cases lies the policy.
	dir := t.TempDir()
	for name, text := range map[string]string{"policy.yaml": "others: {deny: closed}", "c.yaml": "cases: [{name: a, as: 'uid:5', run: x, want: denied, says: closed}]"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := runApp(t, "", "policy", "test", filepath.Join(dir, "c.yaml")); got.code != 0 {
		t.Errorf("%+v", got)
	}
	for text, want := range map[string]string{
		"cases: [{name: a, run: '--nosuch x', want: vm}]": "unknown flag",
		"cases: [{name: a, run: '--rm', want: vm}]":       "names no image",
		"cases: [{name: a, run: \"'x\", want: vm}]":       "quote is not closed",
		"cases: [{name: a, run: x, want: vm, as: bob}]":   "bob",
	} {
		if got := runApp(t, "", "policy", "test", "--policy", policy, write(t, "c.yaml", text)); got.code != 1 || !strings.Contains(got.err, want) {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

func TestPolicyExplain(t *testing.T) {
	answers := map[bool]map[string]any{
		true:  {"Client": "uid:1001", "Tenant": "web", "Allowed": true, "Level": "vm", "Backend": "vm", "Strength": 300, "Rule": "small", "Reason": "because", "Memory": 1 << 30, "ImageHere": true, "Quota": map[string]any{"Containers": 5}, "Used": map[string]any{"Containers": 2}},
		false: {"Client": "uid:0", "Admin": true, "Allowed": false, "Refused": "rule x says no", "Rule": "x", "Options": []string{"--privileged"}},
	}
	for allowed, body := range answers {
		m := newMock(t, map[string]answer{"POST /caisson/policy/explain": sends(200, body)})
		got := m.caisson(t, "", "policy", "explain", "--as", "uid:1001", "--privileged", "-v", "/a:/b", "nginx", "sh")
		req := m.find("POST", "/caisson/policy/explain")
		if len(req) != 1 || req[0].Query != "as=uid%3A1001" {
			t.Fatalf("%v", m.paths())
		}
		var sent struct {
			Image      string
			HostConfig struct {
				Privileged bool
				Binds      []string
			}
		}
		if err := json.Unmarshal(req[0].Body, &sent); err != nil || sent.Image != "nginx" || !sent.HostConfig.Privileged || len(sent.HostConfig.Binds) != 1 {
			t.Errorf("%s", req[0].Body)
		}
		want, code := []string{"tenant web (uid:1001)", "allowed", "vm (strength 300)", "small", "because", "memory 1GiB", "containers 5", "containers 2"}, 0
		if !allowed {
			want, code = []string{"admin uid:0", "refused", "rule x says no", "--privileged", "not here"}, 1
		}
		for _, w := range want {
			if !strings.Contains(got.out, w) {
				t.Errorf("%q is missing in %s", w, got.out)
			}
		}
		if got.code != code || got.err != "" {
			t.Errorf("%+v", got)
		}
		if got := m.caisson(t, "", "policy", "explain", "--format", "{{.Rule}}", "nginx"); got.code != code || strings.TrimSpace(got.out) != body["Rule"] {
			t.Errorf("%+v", got)
		}
	}
}

func TestPolicyViolations(t *testing.T) {
	m := newMock(t, map[string]answer{"GET /caisson/policy/violations": sends(200, []map[string]string{
		{"ID": strings.Repeat("ab", 32), "Name": "web", "Tenant": "a", "State": "running", "Rule": "r", "Reason": "rule r does not allow it"},
	})})
	got := m.caisson(t, "", "policy", "violations")
	if got.code != 0 || !strings.Contains(got.out, "CONTAINER ID") || !strings.Contains(got.out, "abababababab   web") {
		t.Errorf("%+v", got)
	}
	if got := m.caisson(t, "", "policy", "violations", "-q"); got.out != "abababababab\n" {
		t.Errorf("%+v", got)
	}
}

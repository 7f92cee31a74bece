package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func fileArgs(t *testing.T, body string, args ...string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return append([]string{"--config-file", path}, args...)
}

func TestConfigFile(t *testing.T) {
	c, _, err := load(fileArgs(t, `{
		"data-root": "/d", "exec-root": "/e", "hosts": ["tcp://127.0.0.1:1"], "log-level": "debug",
		"bip": "10.1.0.1/24", "default-address-pools": [{"base": "10.2.0.0/16", "size": 24}], "mtu": 1400,
		"ipv6": false, "dns": ["1.1.1.1"], "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}},
		"default-shm-size": "1g", "log-opts": {"max-size": "1m"}, "init": true, "shutdown-timeout": 3
	}`, "--dns-search", "a", "--dns-search=b", "-G", "0"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, o := range options {
		got[o.key] = o.value(c).String()
	}
	for k, want := range map[string]string{
		"data-root": "/d", "exec-root": "/e", "hosts": "tcp://127.0.0.1:1", "log-level": "debug", "bip": "10.1.0.1/24",
		"default-address-pools": "base=10.2.0.0/16,size=24", "mtu": "1400", "ipv6": "false", "dns": "1.1.1.1",
		"default-ulimits": "nofile=1:2", "default-shm-size": "1g", "log-opts": "max-size=1m", "init": "true",
		"shutdown-timeout": "3", "dns-search": "a,b", "group": "0", "pidfile": "/e/caissond.pid",
		"cgroup-parent": "/caisson-" + got["host-id"],
	} {
		if got[k] != want {
			t.Errorf("%s is %q, want %q", k, got[k], want)
		}
	}
}

func TestConfigMistakes(t *testing.T) {
	for _, c := range []struct {
		file string
		args []string
		want string
	}{
		{`{"lgo-level": "info", "debug": true}`, nil, "the following directives don't match any configuration option: debug, lgo-level"},
		{`{"log-level": "info"}`, []string{"-l", "debug"}, "the following directives are specified both as a flag and in the configuration file: log-level: (from flag: debug, from file: \"info\")"},
		{`{"log-level": "loud"}`, nil, "log-level: must be one of debug, info, warn, error"},
		{`{"mtu": [1]}`, nil, "mtu: want one value, not [1]"},
		{`{"dns": "1.1.1.1"}`, nil, "dns: want a list of strings"},
		{`[]`, nil, "not a JSON object"},
		{``, []string{"--nope"}, "unknown flag: --nope"},
		{``, []string{"run"}, `unexpected argument "run"`},
		{``, []string{"-H", "tcp://0.0.0.0:2375"}, "--allow-insecure-tcp"},
		{``, []string{"-H", "tcp://[::]:2375"}, "--allow-insecure-tcp"},
		{``, []string{"-H", "tcp://example.com:1"}, "--allow-insecure-tcp"},
		{``, []string{"-H", "tcp://0.0.0.0:1", "--tls", "--tlscert", "c", "--tlskey", "k"}, "--allow-insecure-tcp"},
		{``, []string{"-H", "ftp://x"}, "want unix://path"},
		{``, []string{"--tlsverify"}, "--tls needs --tlscert and --tlskey"},
		{``, []string{"--tlsverify", "--tlscert=c", "--tlskey=k"}, "--tlsverify needs --tlscacert"},
		{``, []string{"--data-root", "/x", "--exec-root", "/x/"}, "they must differ"},
		{``, []string{"--label", "x"}, "want key=value"},
		{``, []string{"-H", "unix://" + strings.Repeat("/long", 30)}, "longer than the 103 bytes"},
	} {
		_, _, err := load(fileArgs(t, c.file, c.args...))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %v: got %v, want %q", c.file, c.args, err, c.want)
		}
	}
	if _, _, err := load([]string{"--config-file", "/no/such/file"}); err == nil {
		t.Error("a config file that was named must exist")
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		host string
		conf config
		want string
	}{
		{"tcp://", config{}, "tcp://127.0.0.1:2375"},
		{"tcp://127.0.0.1", config{}, "tcp://127.0.0.1:2375"},
		{"tcp://[::1]", config{TLS: true}, "tcp://[::1]:2376"},
		{"tcp://localhost:1", config{}, "tcp://localhost:1"},
		{"tcp://0.0.0.0:", config{TLS: true, TLSVerify: true}, "tcp://0.0.0.0:2376"},
		{"tcp://0.0.0.0:1", config{InsecureTCP: true}, "tcp://0.0.0.0:1"},
		{"/run/x.sock", config{}, "unix:///run/x.sock"},
	} {
		e, err := parseHost(c.host, &c.conf)
		if err != nil || e.String() != c.want {
			t.Errorf("%s: got %v, %v; want %s", c.host, e, err, c.want)
		}
	}
}

func TestReloadTellsWhatChanged(t *testing.T) {
	was, _, err := load(fileArgs(t, `{"log-level": "info", "mtu": 1400}`))
	if err != nil {
		t.Fatal(err)
	}
	is, _, err := load(fileArgs(t, `{"log-level": "debug", "mtu": 1300, "labels": ["a=b"]}`))
	if err != nil {
		t.Fatal(err)
	}
	live, restart := was.changed(is)
	if strings.Join(live, " ") != `log-level: "info" → "debug" labels: "" → "a=b"` || strings.Join(restart, " ") != `mtu: "1400" → "1300"` {
		t.Errorf("live %v, restart %v", live, restart)
	}
	was.takeOver(is)
	live, restart = was.changed(is)
	if len(live) != 0 || len(restart) != 1 {
		t.Errorf("after taking over: live %v, restart %v", live, restart)
	}
}

// The help teaches every option, and no line of it breaks a terminal.
func TestHelp(t *testing.T) {
	var b bytes.Buffer
	printHelp(&b)
	for _, o := range options {
		if !strings.Contains(b.String(), "--"+o.flag) {
			t.Errorf("the help is silent about --%s", o.flag)
		}
	}
	for line := range strings.Lines(b.String()) {
		if len(line) > 110 {
			t.Errorf("line of %d columns: %s", len(line), line)
		}
	}
}

// The example that is shipped must be one.
func TestExampleConfig(t *testing.T) {
	body, err := os.ReadFile("../../packaging/daemon.json.example")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := load(fileArgs(t, string(body))); err != nil {
		t.Error(err)
	}
}

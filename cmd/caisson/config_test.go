package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// home gives the command lines of a test their own files.
func home(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	for _, v := range []string{"CAISSON_CONFIG", "DOCKER_CONFIG", "CAISSON_HOST", "CAISSON_CONTEXT", "CAISSON_TLS_VERIFY", "CAISSON_CERT_PATH"} {
		t.Setenv(v, "")
	}
	return dir
}

func TestContexts(t *testing.T) {
	home(t)
	m := newMock(t, fixture())
	for _, x := range []struct{ args, out string }{
		{"context show", "default\n"},
		{"context create lab --engine host=" + m.host + " --description Lab", "lab\n"},
		{"context create tls --docker host=tcp://h:2376,ca=/ca,cert=/c,key=/k", "tls\n"},
		{"context create copy --from lab", "copy\n"},
		{"context ls -q", "default\ncopy\nlab\ntls\n"},
		{"-c lab ps -q", "a1a1a1a1a1a1\n"},
		{"context use lab", "lab\n"},
		{"ps -q", "a1a1a1a1a1a1\n"},
		{"context show", "lab\n"},
		{"context ls", "NAME      DESCRIPTION                      ENDPOINT                              ERROR\ndefault   What flags and environment say   unix:///run/caisson/caisson.sock      \ncopy                                       " + m.host + "   \n"},
		{"context inspect -f {{.Endpoints.docker.Host}}", m.host + "\n"},
		{"context inspect -f {{.TLSMaterial.CA}} tls", "/ca\n"},
		{"context rm copy", "copy\n"},
		{"context rm -f lab", "lab\n"},
		{"context show", "default\n"},
	} {
		r := runApp(t, "", strings.Fields(x.args)...)
		if x.args == "context ls" { // the socket's name differs in length
			if !strings.Contains(r.out, "lab *") || !strings.Contains(r.out, "What flags and environment say") || strings.Count(r.out, "\n") != 5 {
				t.Errorf("%s: %+v", x.args, r)
			}
			continue
		}
		if r.code != 0 || r.out != x.out {
			t.Errorf("%s: %+v, want %q", x.args, r, x.out)
		}
	}
}

func TestWhichEngine(t *testing.T) {
	dir := home(t)
	if r := runApp(t, "", "context", "create", "lab", "--engine", "host=tcp://lab:2375"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	for _, x := range []struct{ args, env, want string }{
		{"", "", "unix:///run/caisson/caisson.sock"},
		{"-H tcp://a:1", "CAISSON_HOST=tcp://b:2", "tcp://a:1"},
		{"", "CAISSON_HOST=tcp://b:2", "tcp://b:2"},
		{"-c lab", "CAISSON_HOST=tcp://b:2", "tcp://lab:2375"},
		{"", "CAISSON_CONTEXT=lab", "tcp://lab:2375"},
		{"-H tcp://a:1", "CAISSON_CONTEXT=lab", "tcp://a:1"},
		{"-c default", "CAISSON_CONTEXT=lab", "unix:///run/caisson/caisson.sock"},
		{"--config " + dir, "", "unix:///run/caisson/caisson.sock"},
	} {
		k, v, _ := strings.Cut(x.env, "=")
		if k != "" {
			t.Setenv(k, v)
		}
		a := &app{}
		f := newFlagSet("")
		a.global.register(f)
		if err := f.Parse(strings.Fields(x.args)); err != nil {
			t.Fatal(err)
		}
		ep, err := a.endpoint()
		if err != nil || ep.host != x.want {
			t.Errorf("%q %q: %+v %v, want %s", x.args, x.env, ep, err, x.want)
		}
		if k != "" {
			t.Setenv(k, "")
		}
	}
}

func TestTLSSettings(t *testing.T) {
	dir := home(t)
	certs := filepath.Join(dir, "certs")
	os.Mkdir(certs, 0o700)
	os.WriteFile(filepath.Join(certs, "ca.pem"), []byte("not a certificate"), 0o600)
	for _, x := range []struct {
		args, env string
		tls, skip bool
		fails     string
	}{
		{"-H tcp://h:1", "", false, false, ""},
		{"-H tcp://h:1 --tls", "", true, true, ""},
		{"-H tcp://h:1 --tlsverify", "", true, false, ""},
		{"-H tcp://h:1 --tlsverify=false", "CAISSON_TLS_VERIFY=1", false, false, ""},
		{"-H tcp://h:1", "CAISSON_TLS_VERIFY=1", true, false, ""},
		{"-H tcp://h:1 --tlsverify --tlscacert " + certs + "/ca.pem", "", true, false, "no certificate in"},
		{"-H tcp://h:1 --tlsverify", "CAISSON_CERT_PATH=" + certs, true, false, "no certificate in"},
		{"-H tcp://h:1 --tls --tlscert /nosuch", "", true, true, "could not load the TLS client certificate"},
	} {
		k, v, _ := strings.Cut(x.env, "=")
		if k != "" {
			t.Setenv(k, v)
		}
		a := &app{}
		f := newFlagSet("")
		a.global.register(f)
		f.Parse(strings.Fields(x.args))
		a.global.tlsVerifySet = f.Changed("tlsverify")
		ep, err := a.endpoint()
		if err != nil || ep.useTLS != x.tls || ep.useTLS && ep.skipVerify != x.skip {
			t.Errorf("%q %q: %+v %v", x.args, x.env, ep, err)
		}
		cfg, err := ep.tls()
		if (err != nil) != (x.fails != "") || err != nil && !strings.Contains(err.Error(), x.fails) || err == nil && (cfg != nil) != x.tls {
			t.Errorf("%q %q: %v", x.args, x.env, err)
		}
		if k != "" {
			t.Setenv(k, "")
		}
	}
}

func TestLogin(t *testing.T) {
	dir := home(t)
	m := newMock(t, map[string]answer{
		"POST /auth": func(w http.ResponseWriter, r *http.Request) {
			var a struct{ Username, Password, ServerAddress string }
			json.NewDecoder(r.Body).Decode(&a)
			if a.Password != "right" {
				sends(http.StatusUnauthorized, object{"message": "incorrect username or password"})(w, r)
				return
			}
			sends(http.StatusOK, object{"Status": "Login Succeeded"})(w, r)
		},
		"POST /images/create":     nil,
		"POST /images/*/*/*/push": nil,
	})
	run := func(stdin string, args ...string) outcome {
		return runApp(t, stdin, append([]string{"-H", m.host}, args...)...)
	}
	if r := run("wrong\n", "login", "-u", "me", "--password-stdin", "reg.example.com"); r.code != 1 || !strings.Contains(r.err, "incorrect username or password") {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, ".docker/config.json")); err == nil {
		t.Error("wrong credentials were stored")
	}
	if r := run("right\r\n", "login", "-u", "me", "--password-stdin", "reg.example.com"); r.code != 0 || r.out != "Login Succeeded\n" {
		t.Errorf("%+v", r)
	}
	if r := run("", "login", "reg.example.com"); r.code != 0 || !strings.Contains(r.out, "Authenticating with existing credentials") {
		t.Errorf("%+v", r)
	}
	if r := run("", "login", "other.example.com"); r.code != 1 || !strings.Contains(r.err, "non-TTY") {
		t.Errorf("%+v", r)
	}
	if r := run("", "login", "-p", "x", "--password-stdin"); r.code != 1 || !strings.Contains(r.err, "mutually exclusive") {
		t.Errorf("%+v", r)
	}
	run("", "pull", "-q", "reg.example.com/app")
	pulls := m.find(http.MethodPost, "/images/create")
	if len(pulls) != 1 || pulls[0].Header.Get("X-Registry-Auth") == "" || pulls[0].Query != "fromImage=reg.example.com%2Fapp&tag=latest" {
		t.Errorf("%+v", pulls)
	}
	run("", "pull", "-q", "elsewhere.example.com/app")
	if pulls := m.find(http.MethodPost, "/images/create"); pulls[1].Header.Get("X-Registry-Auth") != "" {
		t.Error("one registry's credentials were sent for another")
	}
	if r := run("", "logout", "reg.example.com"); r.code != 0 || r.out != "Removing login credentials for reg.example.com\n" {
		t.Errorf("%+v", r)
	}
	if r := run("", "logout", "reg.example.com"); r.out != "Not logged in to reg.example.com\n" {
		t.Errorf("%+v", r)
	}
}

func TestPruneAsks(t *testing.T) {
	m := newMock(t, fixture())
	if r := m.caisson(t, "n\n", "image", "prune"); r.code != 1 || len(m.paths()) != 0 {
		t.Errorf("%+v %v", r, m.paths())
	}
	if r := m.caisson(t, "y\n", "system", "prune", "-a", "--filter", "label=x"); r.code != 0 || !strings.Contains(r.out, "Total reclaimed space: 12.35kB") {
		t.Errorf("%+v", r)
	}
	if q := m.find(http.MethodPost, "/images/prune")[0].Query; q != "filters=%7B%22dangling%22%3A%7B%22false%22%3Atrue%7D%2C%22label%22%3A%7B%22x%22%3Atrue%7D%7D" {
		t.Errorf("query %s", q)
	}
}

func TestSaveLeavesNoHalfFile(t *testing.T) {
	m := newMock(t, map[string]answer{"GET /images/get": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Write([]byte("half"))
		panic(http.ErrAbortHandler)
	}})
	file := filepath.Join(t.TempDir(), "out.tar")
	os.WriteFile(file, []byte("old"), 0o644)
	if r := m.caisson(t, "", "save", "-o", file, "x"); r.code == 0 {
		t.Errorf("%+v", r)
	}
	if b, _ := os.ReadFile(file); string(b) != "old" {
		t.Errorf("the file holds %q", b)
	}
	if names, _ := os.ReadDir(filepath.Dir(file)); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	if r := m.caisson(t, "", "save", "-o", "/nosuch/dir/x", "x"); r.code == 0 || !strings.Contains(r.err, "does not exist") {
		t.Errorf("%+v", r)
	}
}

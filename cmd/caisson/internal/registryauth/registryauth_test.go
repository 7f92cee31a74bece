package registryauth

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/caisson-engine/caisson/engine/client"
)

func open(t *testing.T, text string) *File {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	if text != "" {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Open()
}

func TestGet(t *testing.T) {
	f := open(t, `{"auths": {
		"https://index.docker.io/v1/": {"auth": "aHViOnB3OndpdGg6Y29sb25z"},
		"reg.example.com:5000": {"auth": "dTpw"},
		"https://old.example.com/v2/": {"auth": "bzpw"},
		"token.example.com": {"identitytoken": "tok"},
		"empty.example.com": {},
		"bad.example.com": {"auth": "!!!"}}}`)
	for domain, want := range map[string]string{
		"docker.io": "hub/pw:with:colons", "index.docker.io": "hub/pw:with:colons", "": "hub/pw:with:colons",
		"reg.example.com:5000": "u/p", "old.example.com": "o/p", "token.example.com": "//tok",
		"empty.example.com": "none", "nosuch.example.com": "none", "bad.example.com": "error", "reg.example.com": "none",
	} {
		a, err := f.Get(domain)
		got := "none"
		switch {
		case err != nil:
			got = "error"
		case a != nil && a.IdentityToken != "":
			got = a.Username + "/" + a.Password + "/" + a.IdentityToken
		case a != nil:
			got = a.Username + "/" + a.Password
		}
		if got != want {
			t.Errorf("%s: %s (%v), want %s", domain, got, err, want)
		}
	}
}

func TestStoreAndEraseKeepTheRest(t *testing.T) {
	f := open(t, `{"auths": {"a.example.com": {"auth": "dTpw"}}, "detachKeys": "ctrl-x", "HttpHeaders": {"X": "y"}}`)
	if _, err := f.Store(client.AuthConfig{Username: "u2", Password: "p2", ServerAddress: "https://b.example.com/v2"}); err != nil {
		t.Fatal(err)
	}
	if a, err := f.Get("b.example.com"); err != nil || a.Username != "u2" || a.Password != "p2" {
		t.Errorf("%+v %v", a, err)
	}
	if had, err := f.Erase("a.example.com"); err != nil || !had {
		t.Errorf("%v %v", had, err)
	}
	if had, err := f.Erase("a.example.com"); err != nil || had {
		t.Errorf("%v %v", had, err)
	}
	var all map[string]any
	b, _ := os.ReadFile(f.Path())
	json.Unmarshal(b, &all)
	if all["detachKeys"] != "ctrl-x" || all["HttpHeaders"] == nil || len(all["auths"].(map[string]any)) != 1 {
		t.Errorf("%s", b)
	}
	if fi, err := os.Stat(f.Path()); err != nil || runtime.GOOS != "windows" && fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi, err)
	}
}

func TestFirstStoreMakesTheFile(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", filepath.Join(t.TempDir(), "new"))
	f := Open()
	if a, err := f.Get("x.example.com"); a != nil || err != nil {
		t.Errorf("%v %v", a, err)
	}
	if _, err := f.Store(client.AuthConfig{Username: "u", IdentityToken: "tok", ServerAddress: "x.example.com"}); err != nil {
		t.Fatal(err)
	}
	if a, err := f.Get("x.example.com"); err != nil || a.IdentityToken != "tok" || a.Username != "u" || a.Password != "" {
		t.Errorf("%+v %v", a, err)
	}
}

// helper is a credential helper that keeps one secret in a file.
const helper = `#!/bin/sh
case $1 in
store) cat > "$HELPER_DIR/secret" ;;
get) read -r url; [ -s "$HELPER_DIR/secret" ] || { echo "credentials not found in native keychain"; exit 1; }; cat "$HELPER_DIR/secret" ;;
erase) rm "$HELPER_DIR/secret" ;;
*) exit 2 ;;
esac
`

func TestHelper(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell: the helper of this test is a script")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("HELPER_DIR", dir)
	f := open(t, `{"credHelpers": {"reg.example.com": "test", "evil.example.com": "../evil"}}`)
	if a, err := f.Get("reg.example.com"); a != nil || err != nil {
		t.Errorf("before login: %v %v", a, err)
	}
	in, err := f.Store(client.AuthConfig{Username: "u", Password: "p", ServerAddress: "reg.example.com"})
	if err != nil || in != "test" {
		t.Fatalf("%q %v", in, err)
	}
	if b, _ := os.ReadFile(f.Path()); strings.Contains(string(b), "dTpw") {
		t.Error("the secret is in the file too")
	}
	if a, err := f.Get("reg.example.com"); err != nil || a.Username != "u" || a.Password != "p" {
		t.Errorf("%+v %v", a, err)
	}
	if had, err := f.Erase("reg.example.com"); err != nil || !had {
		t.Errorf("%v %v", had, err)
	}
	if a, err := f.Get("reg.example.com"); a != nil || err != nil {
		t.Errorf("after logout: %v %v", a, err)
	}
	if _, err := f.Get("evil.example.com"); err == nil || !strings.Contains(err.Error(), "must not be a path") {
		t.Errorf("%v", err)
	}
}

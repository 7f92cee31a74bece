package contexts

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	s := Open(dir)
	if cur, err := s.Current(); err != nil || cur != Default {
		t.Fatalf("%q %v", cur, err)
	}
	if err := s.Create(Context{Name: "lab", Host: "tcp://lab:2376", CA: "/ca.pem"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(Context{Name: "lab"}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("%v", err)
	}
	if err := s.Use("nosuch"); !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
	if err := s.Use("lab"); err != nil {
		t.Fatal(err)
	}
	if cur, _ := s.Current(); cur != "lab" {
		t.Errorf("in use: %q", cur)
	}
	if c, err := s.Get("lab"); err != nil || c.Host != "tcp://lab:2376" || !c.TLS() {
		t.Errorf("%+v %v", c, err)
	}
	if l, err := s.List(); err != nil || len(l) != 1 || l[0].Name != "lab" {
		t.Errorf("%+v %v", l, err)
	}
	if err := s.Remove("lab", false); !errdefs.IsConflict(err) {
		t.Errorf("the context in use was removed: %v", err)
	}
	if err := s.Remove("lab", true); err != nil {
		t.Fatal(err)
	}
	if cur, _ := s.Current(); cur != Default {
		t.Errorf("in use: %q", cur)
	}
	if err := s.Remove(Default, true); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
}

func TestNamesDoNotLeaveTheDirectory(t *testing.T) {
	s := Open(t.TempDir())
	for _, name := range []string{"", "a", "..", "../x", "a/b", `a\b`, ".hidden", "x\x00", "a b"} {
		if _, err := s.Get(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Get(%q): %v", name, err)
		}
		if err := s.Create(Context{Name: name}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Create(%q): %v", name, err)
		}
	}
}

func TestUnknownSettingsAreKept(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	os.WriteFile(file, []byte(`{"future": {"a": 1}}`), 0o600)
	s := Open(dir)
	if err := s.Create(Context{Name: "lab"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Use("lab"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(file); string(b) != "{\n  \"currentContext\": \"lab\",\n  \"future\": {\n    \"a\": 1\n  }\n}\n" {
		t.Errorf("%s", b)
	}
	os.WriteFile(file, []byte(`{broken`), 0o600)
	if _, err := s.Current(); err == nil {
		t.Error("a broken file was taken for none")
	}
}

package ref

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"busybox":                              "docker.io/library/busybox:latest",
		"user/app:v1":                          "docker.io/user/app:v1",
		"docker.io/busybox":                    "docker.io/library/busybox:latest",
		"index.docker.io/busybox":              "docker.io/library/busybox:latest",
		"localhost/app":                        "localhost/app:latest",
		"127.0.0.1:5000/app":                   "127.0.0.1:5000/app:latest",
		"app:v1@sha256:" + hex:                 "docker.io/library/app@sha256:" + hex,
		"reg.example:5000/a/b/c@sha256:" + hex: "reg.example:5000/a/b/c@sha256:" + hex,
	} {
		if got, err := Parse(in); err != nil || got.String() != want {
			t.Errorf("%s: %v %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":                              "invalid reference format",
		"App":                           "repository name (library/App) must be lowercase",
		"a b":                           "invalid reference format",
		"a:":                            "invalid reference format",
		"a@sha256:ab":                   "invalid reference format",
		hex:                             "cannot specify 64-byte hexadecimal strings",
		"../../etc":                     "invalid reference format",
		strings.Repeat("a/", 200) + "b": "must not be more than 255 characters",
	} {
		if _, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
	if _, err := ParseTag("a@sha256:" + hex); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestFamiliar(t *testing.T) {
	for in, want := range map[string][2]string{
		"docker.io/library/busybox:latest": {"busybox:latest", "busybox"},
		"reg.example:5000/a:1":             {"reg.example:5000/a:1", "reg.example:5000/a"},
		"docker.io/user/app@sha256:" + hex: {"", "user/app"},
		Dangling("sha256:" + hex):          {"", ""},
		"not a name":                       {"", ""},
	} {
		if tag, repo := Familiar(in); tag != want[0] || repo != want[1] {
			t.Errorf("%s: %q %q, want %q", in, tag, repo, want)
		}
	}
	for in, want := range map[string]string{"abc": "abc", "sha256:abc": "abc", "xyz": "", "ABC": "", "a:b": "", hex: hex, hex + "0": ""} {
		if got := IDPrefix(in); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
	if !IsFullID("sha256:"+hex) || !IsFullID(hex) || IsFullID("abc") || !IsDangling(Dangling("sha256:"+hex)) {
		t.Error("ids")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("busybox")
	f.Add("a/b:c@sha256:" + hex)
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(n.String()); err != nil || again.String() != n.String() {
			t.Errorf("%q becomes %q, which becomes %v: %v", s, n, again, err)
		}
		Familiar(n.String())
	})
}

package volume

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
)

func TestParseBind(t *testing.T) {
	for spec, want := range map[string]Mount{
		"/h:/c":           {Type: mount.TypeBind, Source: "/h", Destination: "/c", MakeSource: true, Propagation: "rprivate"},
		"/h:/c/../d:ro,z": {Type: mount.TypeBind, Source: "/h", Destination: "/d", Mode: "ro,z", ReadOnly: true, MakeSource: true, Propagation: "rprivate"},
		"/h:/c:rshared":   {Type: mount.TypeBind, Source: "/h", Destination: "/c", Mode: "rshared", MakeSource: true, Propagation: "rshared"},
		"vol:/c:nocopy":   {Type: mount.TypeVolume, Name: "vol", Destination: "/c", Driver: "local", Mode: "nocopy", NoCopy: true},
		`C:\h:/c`:         {Type: mount.TypeBind, Source: `C:\h`, Destination: "/c", MakeSource: true, Propagation: "rprivate"},
	} {
		got, err := ParseBind(spec, "")
		if err != nil || !equal(got, want) {
			t.Errorf("%s: %+v, %v", spec, got, err)
		}
	}
	if m, err := ParseBind("/anon", ""); err != nil || !m.Anonymous || len(m.Name) != 64 {
		t.Error(m, err)
	}
	for _, spec := range []string{"", ":", ":/c", "/h:", "/h:c", "/h:/", "/h:/c:purple", "a:b:c:d", "../x:/c", "vol/x:/c", "/h:/c:ro:rw"} {
		if m, err := ParseBind(spec, ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %+v, %v", spec, m, err)
		}
	}
}

func equal(a, b Mount) bool {
	a.Labels, b.Labels = nil, nil
	return a.Type == b.Type && a.Name == b.Name && a.Source == b.Source && a.Destination == b.Destination &&
		a.Driver == b.Driver && a.Mode == b.Mode && a.ReadOnly == b.ReadOnly && a.Propagation == b.Propagation &&
		a.NoCopy == b.NoCopy && a.MakeSource == b.MakeSource && slices.Equal(a.Options, b.Options)
}

func TestResolve(t *testing.T) {
	got, err := Resolve(Request{
		Binds:   []string{"/h:/a/b"},
		Mounts:  []mount.Mount{{Type: mount.TypeVolume, Source: "v", Target: "/a", ReadOnly: true}, {Type: mount.TypeTmpfs, Target: "/t", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 5, Mode: 0o700}}},
		Tmpfs:   map[string]string{"/run": "exec,size=1m,ro"},
		Volumes: map[string]struct{}{"/a": {}, "/new": {}},
		From:    []Mount{{Type: mount.TypeVolume, Name: "donor", Destination: "/a/b"}, {Type: mount.TypeVolume, Name: "donor2", Destination: "/d"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range got {
		name := m.Name
		if m.Anonymous {
			name = "anon"
		}
		list = append(list, m.Destination+"="+string(m.Type)+":"+name+m.Source+strings.Join(m.Options, ","))
	}
	want := []string{
		"/a=volume:v", "/d=volume:donor2", "/new=volume:anon", "/run=tmpfs:nosuid,nodev,exec,size=1m,ro",
		"/t=tmpfs:noexec,nosuid,nodev,size=5,mode=700", "/a/b=bind:/h",
	}
	if !slices.Equal(list, want) {
		t.Errorf("got  %v\nwant %v", list, want)
	}
}

func TestResolveRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		r  Request
		is func(error) bool
	}{
		"twice":           {Request{Binds: []string{"/h:/a", "/i:/a/"}}, errdefs.IsInvalidArgument},
		"no target":       {Request{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "/h"}}}, errdefs.IsInvalidArgument},
		"relative source": {Request{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "h", Target: "/a"}}}, errdefs.IsInvalidArgument},
		"foreign options": {Request{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "/h", Target: "/a", TmpfsOptions: &mount.TmpfsOptions{}}}}, errdefs.IsInvalidArgument},
		"tmpfs option":    {Request{Tmpfs: map[string]string{"/a": "lowerdir=/"}}, errdefs.IsInvalidArgument},
		"tmpfs source":    {Request{Mounts: []mount.Mount{{Type: mount.TypeTmpfs, Source: "x", Target: "/a"}}}, errdefs.IsInvalidArgument},
		"image":           {Request{Mounts: []mount.Mount{{Type: mount.TypeImage, Source: "x", Target: "/a"}}}, errdefs.IsNotImplemented},
		"subpath":         {Request{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "v", Target: "/a", VolumeOptions: &mount.VolumeOptions{Subpath: "../x"}}}}, errdefs.IsNotImplemented},
		"type":            {Request{Mounts: []mount.Mount{{Type: "moon", Target: "/a"}}}, errdefs.IsInvalidArgument},
		"config volume":   {Request{Volumes: map[string]struct{}{"rel": {}}}, errdefs.IsInvalidArgument},
	} {
		if _, err := Resolve(c.r); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnsure(t *testing.T) {
	dir := t.TempDir()
	l := NewLocal(filepath.Join(dir, "volumes"))
	m := Mount{Type: mount.TypeVolume, Name: "v", Driver: "local", Destination: "/d"}
	if err := l.Ensure(&m); err != nil || m.Source != filepath.Join(dir, "volumes", "v", "_data") {
		t.Fatal(m, err)
	}
	if fi, err := os.Stat(m.Source); err != nil || !fi.IsDir() {
		t.Error(err)
	}
	absent := filepath.Join(dir, "absent")
	err := l.Ensure(&Mount{Type: mount.TypeBind, Source: absent})
	if want := `invalid mount config for type "bind": bind source path does not exist: ` + absent; !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), want) {
		t.Error(err)
	}
	if err := l.Ensure(&Mount{Type: mount.TypeBind, Source: absent, MakeSource: true}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(absent); err != nil {
		t.Error(err)
	}
	if err := l.Ensure(&Mount{Type: mount.TypeVolume, Name: "v", Driver: "nfs"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	for range 2 {
		if err := l.Remove("v"); err != nil {
			t.Error(err)
		}
	}
	if err := l.Remove("../volumes"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func FuzzParseBind(f *testing.F) {
	for _, s := range []string{"/h:/c:ro", "v:/c", `C:\x:/y`, "/a", "::", "/h:/c:ro,rprivate"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseBind(s, "")
		if err == nil && (!strings.HasPrefix(m.Destination, "/") || m.Destination == "/" || strings.Contains(m.Destination+"/", "/../")) {
			t.Errorf("%q: destination %q", s, m.Destination)
		}
	})
}

package volume

import (
	"fmt"
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
		"image":           {Request{Mounts: []mount.Mount{{Type: mount.TypeImage, Target: "/a"}}}, errdefs.IsInvalidArgument},
		"subpath":         {Request{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "v", Target: "/a", VolumeOptions: &mount.VolumeOptions{Subpath: "../x"}}}}, errdefs.IsInvalidArgument},
		"type":            {Request{Mounts: []mount.Mount{{Type: "moon", Target: "/a"}}}, errdefs.IsInvalidArgument},
		"config volume":   {Request{Volumes: map[string]struct{}{"rel": {}}}, errdefs.IsInvalidArgument},
	} {
		if _, err := Resolve(c.r); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLocal(t *testing.T) {
	dir := t.TempDir()
	l := NewLocal(filepath.Join(dir, "volumes"))
	for range 2 {
		if err := l.Make("v"); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, "volumes", "v", "_data")); err != nil || !fi.IsDir() {
		t.Error(err)
	}
	if got := l.Names(); !slices.Equal(got, []string{"v"}) {
		t.Error(got)
	}
	// What is mounted there is not ours: only an empty directory goes.
	if err := os.WriteFile(filepath.Join(l.Path("v"), "theirs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Remove("v", true); err == nil {
		t.Error("a volume that is a mount went with what is in it")
	}
	if _, err := os.Stat(filepath.Join(l.Path("v"), "theirs")); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := l.Remove("v", false); err != nil {
			t.Error(err)
		}
	}
	for _, err := range []error{l.Remove("../volumes", false), l.Make("..")} {
		if !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
	}
}

func TestMakeSource(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent")
	err := MakeSource(&Mount{Type: mount.TypeBind, Source: absent})
	if want := `invalid mount config for type "bind": bind source path does not exist: ` + absent; !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), want) {
		t.Error(err)
	}
	if err := MakeSource(&Mount{Type: mount.TypeBind, Source: absent, MakeSource: true}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(absent); err != nil {
		t.Error(err)
	}
}

// What a volume's options give of the host is what the policy is asked about.
func TestParseDevice(t *testing.T) {
	type opts = map[string]string
	for _, c := range []struct {
		opts opts
		want string // of the error, or what is asked
	}{
		{opts{}, "[]"},
		{opts{"size": "10g"}, "[]"},
		{opts{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=5"}, "[]"},
		{opts{"type": "none", "o": "bind", "device": "/etc"}, "[{/etc false  false}]"},
		{opts{"type": "none", "o": "rbind,ro,rshared", "device": "/etc"}, "[{/etc true rshared false}]"},
		{opts{"type": "tmpfs", "o": "size=1m,bind", "device": "/etc"}, "[{/etc false  false}]"},
		{opts{"type": "bind", "device": "/etc"}, "[{/etc false  false}]"},
		{opts{"type": "nfs", "device": ":/x", "o": "addr=10.0.0.1,rw"}, "[{mount:nfs::/x,addr=10.0.0.1,rw false  true}]"},
		{opts{"type": "overlay", "device": "overlay", "o": "lowerdir=/etc"}, "[{mount:overlay:overlay,lowerdir=/etc false  true}]"},
		{opts{"type": "nfs"}, `missing required option: "device"`},
		{opts{"device": "/x"}, `missing required option: "type"`},
		{opts{"o": "bind"}, `missing required option: "device"`},
		{opts{"what": "ever"}, `invalid option: "what"`},
		{opts{"type": "none", "device": "/x"}, "type none mounts nothing"},
		{opts{"type": "none", "device": "x", "o": "bind"}, "absolute path"},
		{opts{"type": "tmpfs", "device": "tmpfs", "size": "1m"}, "size is of a volume without a type"},
		{opts{"size": "much"}, "size=much"},
	} {
		got := fmt.Sprint(OptionBinds(c.opts))
		if _, err := ParseDevice(c.opts); err != nil {
			got = err.Error()
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v: %v", c.opts, err)
			}
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%v: %s, not %s", c.opts, got, c.want)
		}
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

//go:build linux

package initproc

import (
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/mount"
	"github.com/caisson-engine/caisson/platform_linux/pack"
)

// full has something in every field.
func full() *Instructions {
	return &Instructions{
		Version: Version,
		Container: &Container{
			RootPath: "/r", Rootfs: []Mount{{Type: "overlay", Source: "o", Target: "/", Options: mount.Parse([]string{"lowerdir=/a:/b", "ro"}), FD: 1}},
			Mounts:          []Mount{{Type: "bind", Source: "/s", Target: "/t", Options: mount.Parse([]string{"rbind", "rprivate", "rro", "tmpcopyup", "idmap"})}},
			RootPropagation: unix.MS_SLAVE, ReadonlyRoot: true,
			Devices:     []Device{{Path: "/dev/x", Mode: unix.S_IFCHR | 0o600, Major: 1, Minor: 2, UID: 3, GID: 4}},
			MaskedPaths: []string{"/m"}, ReadonlyPaths: []string{"/o"}, Sysctls: []KeyValue{{"a/b", "c"}},
			Hostname: "h", Domainname: "d", NewCgroupNS: true, NewTimeNS: true, TimeOffsets: "monotonic 1 2\n", UserNS: true,
			Cgroups: []Cgroup{{Dir: "cpu,cpuacct", Options: []string{"cpu", "cpuacct"}, V2: true, Links: []string{"cpu"}}},
		},
		Process: Process{
			Args: []string{"a", ""}, Env: []string{"A=b"}, Cwd: "/w", User: "u:g", UID: 1, GID: 2, Groups: []uint32{3}, GroupAdd: []string{"w"},
			Umask: -1, Caps: Caps{1, 2, 3, 4, 5}, Rlimits: []Rlimit{{1, 2, ^uint64(0)}}, NoNewPrivs: true,
			Seccomp: []byte{1, 2, 3}, SeccompFlags: 2, AppArmor: "p", Terminal: true, Rows: 24, Cols: 80, Reaper: true, IOPriority: 7,
			Scheduler: &Scheduler{Policy: 1, Flags: 2, Nice: -3, Priority: 4, Runtime: 5, Deadline: 6, Period: 7},
		},
	}
}

func TestInstructions(t *testing.T) {
	for _, in := range []*Instructions{full(), {Process: Process{Seccomp: []byte{}}}} {
		text := AppendInstructions(nil, in, 3)
		if text[4] != 3 {
			t.Errorf("descriptors: %d", text[4])
		}
		var out Instructions
		if !pack.Decode(text[FrameHeader:], &out) {
			t.Fatal("cannot be read back")
		}
		if !reflect.DeepEqual(in, &out) {
			t.Errorf("got %+v\nwant %+v", out, in)
		}
	}
	// A field that is not in full would not be missed above.
	var look func(v reflect.Value, path string)
	look = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Pointer:
			look(v.Elem(), path)
		case reflect.Struct:
			for i := range v.NumField() {
				look(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		default:
			if v.IsZero() {
				t.Errorf("%s is not tested", path)
			}
		}
	}
	look(reflect.ValueOf(full()), "Instructions")
}

func FuzzInstructions(f *testing.F) {
	f.Add(pack.Encode(nil, full()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var in, again Instructions
		if !pack.Decode(data, &in) {
			return
		}
		if !pack.Decode(pack.Encode(nil, &in), &again) {
			t.Error("cannot read what was just written")
		}
	})
}

func TestFindUser(t *testing.T) {
	const passwd = "# comment\nbroken:x:y\nroot:x:0:0:r:/root:/bin/sh\n:x:7:7::/:\nweb:x:33:33::/var/www:/bin/false\nold:x:40:41\nhuge:x:99999999999:1::/:\n"
	for _, c := range []struct {
		name    string
		uid     uint32
		numeric bool
		want    passwdEntry
		ok      bool
	}{
		{"root", 0, false, passwdEntry{"root", 0, 0, "/root"}, true},
		{"", 33, true, passwdEntry{"web", 33, 33, "/var/www"}, true},
		{"old", 0, false, passwdEntry{"old", 40, 41, ""}, true},
		{"huge", 0, false, passwdEntry{}, false},
		{"", 0, false, passwdEntry{}, false},
		{"nobody", 0, false, passwdEntry{}, false},
	} {
		if got, ok := findUser(passwd, c.name, c.uid, c.numeric); got != c.want || ok != c.ok {
			t.Errorf("%q %d: %+v %v", c.name, c.uid, got, ok)
		}
	}
	if gid, ok := findGroup("a:x:5:\nb:x:6:u,v\n", "b"); gid != 6 || !ok {
		t.Errorf("b: %d %v", gid, ok)
	}
	if gid, ok := findGroup("", "12"); gid != 12 || !ok {
		t.Errorf("12: %d %v", gid, ok)
	}
	if _, ok := findGroup("", "-1"); ok {
		t.Error("-1 is a group")
	}
}

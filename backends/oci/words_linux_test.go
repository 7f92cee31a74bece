package oci

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
)

// What runtimes were seen to say.
func TestNotExecuted(t *testing.T) {
	const none = backendpb.ExecFailure_Kind(-1)
	for text, want := range map[string]backendpb.ExecFailure_Kind{
		`runc create failed: unable to start container process: exec: "/no/such": stat /no/such: no such file or directory`: backendpb.ExecFailure_NO_COMMAND,
		`exec failed: unable to start container process: exec: "nope": executable file not found in $PATH`:                  backendpb.ExecFailure_NO_COMMAND,
		`runc create failed: unable to start container process: exec: "/etc": permission denied`:                            backendpb.ExecFailure_NOT_EXECUTABLE,
		"executable file `nope` not found in $PATH: No such file or directory":                                              backendpb.ExecFailure_NO_COMMAND,
		"open executable: Permission denied": backendpb.ExecFailure_NOT_EXECUTABLE,
		`starting container: starting root container: starting sandbox: creating process: failed to load /no/such: no such file or directory`:               backendpb.ExecFailure_NO_COMMAND,
		`executing processes for container: executing command "nope" in sandbox: error finding executable "nope" in PATH [/bin]: no such file or directory`: backendpb.ExecFailure_NO_COMMAND,
		`executing command "/etc/plain" in sandbox: failed to load /etc/plain: permission denied`:                                                           backendpb.ExecFailure_NOT_EXECUTABLE,
		`exec /prog: exec format error`:                                                   backendpb.ExecFailure_NOT_EXECUTABLE,
		"cgroups in hybrid mode not supported, drop all controllers from cgroupv2":        none,
		"error mounting \"/nowhere\" to rootfs: stat /nowhere: no such file or directory": none,
		"creating container: cannot create sandbox: waiting for sandbox to start: EOF":    none,
		`namespace {"time" ""} does not exist`:                                            none,
	} {
		got := (&failure{said: []string{text}}).notExecuted("prog")
		switch {
		case want == none && got != nil:
			t.Errorf("%s: taken for a program that cannot be executed", text)
		case want != none && (got == nil || got.Kind != want):
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

func TestIdentify(t *testing.T) {
	for said, want := range map[string]struct {
		kind string
		old  bool
	}{
		"runc version 1.1.5+ds1\ncommit: x\n":             {kind: "runc"},
		"runc version 1.0.3\n":                            {kind: "runc", old: true},
		"crun version 1.8.1\n":                            {kind: "crun"},
		"crun version 0.17\n":                             {kind: "crun", old: true},
		"runsc version release-20250203.0\nspec: 1.1.0\n": {kind: "runsc"},
		"runsc version release-20221102.1\n":              {kind: "runsc", old: true},
		"runsc version VERSION_MISSING\n":                 {kind: "runsc"},
		"kata-runtime  : 3.2.0\n":                         {kind: "other"},
	} {
		path := filepath.Join(t.TempDir(), "runtime")
		if err := os.WriteFile(path, []byte("#!/bin/sh\nprintf '"+said+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		d, _, err := (&Runtime{Path: path}).identify(context.Background())
		if d.kind != want.kind || errdefs.IsFailedPrecondition(err) != want.old || err != nil && !want.old {
			t.Errorf("%q: got %s, %v", said, d.kind, err)
		}
	}
	if _, _, err := (&Runtime{Path: "/nowhere/runtime"}).identify(context.Background()); !errdefs.IsNotFound(err) {
		t.Errorf("a runtime that is not there: %v", err)
	}
}

// Docker's rules for --user, in the container's own files, which may be links.
func TestResolve(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\ntester:x:1000:1001:Test:/home/tester:/bin/sh\n",
		"group":  "root:x:0:\ntester:x:1001:\nstaff:x:50:tester,other\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, "real"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "real", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Absolute, so outside of the root it would lead somewhere else.
	if err := os.Symlink("/real", filepath.Join(dir, "etc")); err != nil {
		t.Fatal(err)
	}
	r, err := openRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, c := range []struct {
		user, add string
		uid, gid  uint32
		groups    []uint32
		home      string
		wrong     bool
	}{
		{user: "", groups: []uint32{0}, home: "/root"},
		{user: "tester", uid: 1000, gid: 1001, groups: []uint32{1001, 50}, home: "/home/tester"},
		{user: "1000", uid: 1000, gid: 1001, groups: []uint32{1001, 50}, home: "/home/tester"},
		{user: "tester:staff", uid: 1000, gid: 50, groups: []uint32{50}, home: "/home/tester"},
		{user: "77:88", uid: 77, gid: 88, groups: []uint32{88}, home: "/"},
		{user: "tester", add: "7,staff", uid: 1000, gid: 1001, groups: []uint32{1001, 50, 7, 50}, home: "/home/tester"},
		{user: "nobody", wrong: true}, {user: "root:nogroup", wrong: true}, {user: "root", add: "nogroup", wrong: true},
	} {
		p := &specs.Process{User: specs.User{Username: c.user}}
		_, err := resolve(r, p, map[string]string{annotationGroupAdd: c.add})
		if c.wrong {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		if err != nil || p.User.UID != c.uid || p.User.GID != c.gid || !slices.Equal(p.User.AdditionalGids, c.groups) || !slices.Contains(p.Env, "HOME="+c.home) {
			t.Errorf("%+v: got %+v %v, %v", c, p.User, p.Env, err)
		}
	}
}

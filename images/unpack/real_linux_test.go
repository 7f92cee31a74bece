package unpack

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// describe tells all that an image keeps of each file below dir; files that
// are one by hard links have the same number.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	out, links := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p, dir), "/")
		d := fmt.Sprintf("mode %o owner %d:%d mtime %d.%09d rdev %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Rdev)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			d += fmt.Sprintf(" size %d", st.Size)
			if first, ok := links[st.Ino]; ok {
				d += " is " + first
			}
			links[st.Ino] = rel
		}
		if to, err := os.Readlink(p); err == nil {
			d += " -> " + to
		}
		names := make([]byte, 4096)
		if n, err := unix.Llistxattr(p, names); err == nil {
			keys := strings.Split(strings.TrimRight(string(names[:n]), "\x00"), "\x00")
			slices.Sort(keys) // a file system lists them in any order
			for _, k := range keys {
				v := make([]byte, 4096)
				if n, err := unix.Lgetxattr(p, k, v); err == nil && k != "" {
					d += fmt.Sprintf(" %s=%x", k, v[:n])
				}
			}
		}
		out[rel] = d
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A real tree, unpacked by us and by tar, is the same in every attribute.
func TestLikeTar(t *testing.T) {
	needRoot(t)
	src := t.TempDir()
	for _, c := range [][]string{
		{"cp", "-a", "/etc", "/usr/share/zoneinfo", src},
		{"ln", src + "/etc/passwd", src + "/hardlink"},
		{"cp", "/bin/ls", src + "/capable"},
		{"chown", "12:34", src + "/capable"},
		{"chmod", "6755", src + "/capable"},
		{"mknod", src + "/fifo", "p"},
		{"mknod", src + "/null", "c", "1", "3"},
		{"mkdir", "-m", "2770", src + "/setgid"},
		{"touch", src + "/setgid/child"},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs a Debian-like machine: %v: %s", err, out)
		}
	}
	if err := unix.Setxattr(src+"/capable", "user.note", []byte("x"), 0); err != nil {
		t.Skipf("needs extended attributes on %s: %v", src, err)
	}
	// cap_net_raw+ep, as the kernel stores it.
	capability := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Setxattr(src+"/capable", "security.capability", capability, 0); err != nil {
		t.Skipf("needs file capabilities: %v", err)
	}
	file := filepath.Join(t.TempDir(), "layer.tar")
	tarball := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("tar", append([]string{"--xattrs", "--xattrs-include=*", "--numeric-owner", "--format=pax"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	tarball("-cf", file, "-C", src, ".")
	theirs, ours := t.TempDir(), t.TempDir()
	tarball("-xpf", file, "-C", theirs)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Overlay(context.Background(), f, ours, Options{Budget: NewBudget(1 << 40)}); err != nil {
		t.Fatal(err)
	}
	want, got := describe(t, theirs), describe(t, ours)
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if got[p] != want[p] {
			t.Errorf("%q\n ours %s\n tar  %s", p, got[p], want[p])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
}

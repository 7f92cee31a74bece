package vmm

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFindGuest(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	put := func(dir string, names ...string) {
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if g, err := FindGuest(a, b); err == nil {
		t.Errorf("found %v in empty directories", g)
	}
	put(a, "vmlinux-debian", "initrd-debian", "vmlinux") // our own lacks its initramfs
	if g, err := FindGuest(a, b); err != nil || g.Flavour != DebianKernel || g.Kernel != filepath.Join(a, "vmlinux-debian") {
		t.Errorf("%v, %v; want Debian's", g, err)
	}
	put(b, "vmlinux", "initrd")
	if g, err := FindGuest(a, b); err != nil || g.Flavour != OwnKernel || g.Initrd != filepath.Join(b, "initrd") {
		t.Errorf("%v, %v; want our own", g, err)
	}
}

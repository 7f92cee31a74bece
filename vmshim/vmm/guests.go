package vmm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Guest is a kernel and the initramfs made for it.
type Guest struct {
	Kernel  string
	Initrd  string
	Flavour Flavour
}

// guests are what a directory may hold, the better first.
var guests = []Guest{
	{"vmlinux", "initrd", OwnKernel},
	{"vmlinux-debian", "initrd-debian", DebianKernel},
}

// FindGuest returns the best guest in dirs: our own kernel if any of them has it,
// else Debian's.
func FindGuest(dirs ...string) (Guest, error) {
	for _, g := range guests {
		for _, dir := range dirs {
			found := Guest{filepath.Join(dir, g.Kernel), filepath.Join(dir, g.Initrd), g.Flavour}
			if exists(found.Kernel) && exists(found.Initrd) {
				return found, nil
			}
		}
	}
	return Guest{}, fmt.Errorf("no guest kernel and initramfs in %s: make guest builds them", strings.Join(dirs, " or "))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

package guestos

import (
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Programs are what goes into an initramfs.
type Programs struct {
	Init   string   // becomes /init
	Bin    []string // go into /bin under their own names
	Module []string // go into /lib/modules, in the order in which to load them
}

// dirs are there for the guest's init to mount on.
var dirs = []string{"bin", "dev", "etc", "lib", "lib/modules", "mnt", "proc", "root", "run", "sys", "tmp", "var"}

// Initramfs writes the archive of p to path, which appears when it is whole.
func Initramfs(path string, p Programs) error {
	var files []File
	for _, d := range dirs {
		files = append(files, File{Name: d, Mode: TypeDir | 0o755})
	}
	// Before devtmpfs is mounted the kernel opens the console for init, and where
	// that needs a module first, a Go program opens null in its place or gives up.
	files = append(files,
		File{Name: "dev/console", Mode: TypeDevice | 0o600, Dev: [2]uint32{5, 1}},
		File{Name: "dev/null", Mode: TypeDevice | 0o666, Dev: [2]uint32{1, 3}})
	add := func(name, from string, mode uint32) error {
		st, err := os.Stat(from)
		if err != nil {
			return err
		}
		files = append(files, File{
			Name: name, Mode: TypeFile | mode, Size: st.Size(),
			Open: func() (io.ReadCloser, error) { return os.Open(from) },
		})
		return nil
	}
	if err := add("init", p.Init, 0o755); err != nil {
		return err
	}
	for _, b := range p.Bin {
		if err := add("bin/"+filepath.Base(b), b, 0o755); err != nil {
			return err
		}
	}
	var order strings.Builder
	for _, m := range p.Module {
		if err := add("lib/modules/"+filepath.Base(m), m, 0o644); err != nil {
			return err
		}
		order.WriteString(filepath.Base(m) + "\n")
	}
	if order.Len() > 0 {
		files = append(files, File{
			Name: "lib/modules/load", Mode: TypeFile | 0o644, Size: int64(order.Len()),
			Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(order.String())), nil },
		})
	}

	tmp, err := os.CreateTemp(filepath.Dir(path), ".initramfs-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if err := WriteCPIO(tmp, files); err != nil {
		return err
	}
	// The monitor reads it under a uid of its own.
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

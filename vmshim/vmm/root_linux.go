package vmm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Where things are in a jail's root.
const (
	inProgram  = "/qemu"
	inLibs     = "/lib"
	inModules  = "/modules"
	inFirmware = "/firmware"
)

// firmware are the files that a microvm loads. Not every version has all.
var firmware = []string{"bios-microvm.bin", "qboot.rom", "pvh.bin", "linuxboot_dma.bin", "linuxboot.bin"}

// firmwareDirs and moduleDirs are where distributions put them.
var (
	firmwareDirs = []string{"/usr/share/qemu", "/usr/share/seabios", "/usr/share/qemu-kvm", "/usr/share/seabios-bin", "/usr/local/share/qemu"}
	moduleDirs   = []string{"/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib64/qemu-kvm", "/usr/lib64/qemu", "/usr/lib/qemu"}
	modules      = []string{"accel-tcg-x86_64.so"}
)

// root is the directory that is the root of every jail: a copy of the monitor,
// the libraries it needs and its firmware, some 35 MB, made once per version of
// these files. A copy, so that an upgrade of the host's packages changes nothing
// under a running machine and one bind mount is the whole file system; and a
// machine finds nothing else of the host in it.
type root struct {
	Dir string
	ID  string // changes with any of the files
}

// rootFile is one file of it.
type rootFile struct {
	to, from string
	mode     fs.FileMode
}

// roots are those that this process has looked at. Finding a program's libraries
// takes a hundred times as long as seeing that none of them changed.
var roots struct {
	sync.Mutex
	known map[[2]string]knownRoot // by program and directory
}

type knownRoot struct {
	root
	files []rootFile
}

// prepareRoot makes the root below dir, or finds it there.
func prepareRoot(binary, dir string) (r root, err error) {
	roots.Lock()
	defer roots.Unlock()

	key := [2]string{binary, dir}
	if known, ok := roots.known[key]; ok {
		if id, err := identify(known.files); err == nil && id == known.ID && isDir(known.Dir) {
			return known.root, nil
		}
	}
	files, err := rootFiles(binary)
	if err != nil {
		return root{}, err
	}
	defer func() {
		if err == nil {
			if roots.known == nil {
				roots.known = map[[2]string]knownRoot{}
			}
			roots.known[key] = knownRoot{r, files}
		}
	}()
	id, err := identify(files)
	if err != nil {
		return root{}, err
	}
	r = root{Dir: filepath.Join(dir, "vmm-"+id), ID: id}
	if _, err := os.Lstat(r.Dir); err == nil {
		return r, nil
	}
	// Machines run with uids of their own and must get in; they can not list what
	// is beside it.
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return root{}, err
	}
	work, err := os.MkdirTemp(dir, ".vmm-")
	if err != nil {
		return root{}, err
	}
	defer os.RemoveAll(work)
	for _, d := range []string{"/proc", "/dev", inLibs, inModules, inFirmware} {
		if err := os.MkdirAll(filepath.Join(work, d), 0o755); err != nil {
			return root{}, err
		}
	}
	for _, f := range files {
		if err := copyFile(filepath.Join(work, f.to), f.from, f.mode); err != nil {
			return root{}, err
		}
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return root{}, err
	}
	if err := os.Rename(work, r.Dir); err != nil && !isDir(r.Dir) {
		return root{}, err
	}
	removeOld(dir, r.Dir)
	return r, nil
}

// removeOld deletes the roots of earlier versions, once no machine can be about to
// start in one. A running machine has long loaded all it needs.
func removeOld(dir, keep string) {
	dirs, _ := filepath.Glob(filepath.Join(dir, "vmm-*"))
	half, _ := filepath.Glob(filepath.Join(dir, ".vmm-*")) // of a process that was killed
	for _, d := range append(dirs, half...) {
		if st, err := os.Lstat(d); err == nil && d != keep && time.Since(st.ModTime()) > time.Hour {
			_ = os.RemoveAll(d)
		}
	}
}

// rootFiles lists what goes into the root.
func rootFiles(binary string) ([]rootFile, error) {
	libs := newClosure()
	if err := libs.add(binary); err != nil {
		return nil, err
	}
	// Executable but not readable: such a program is not dumpable, so not even a
	// process with the same uid can trace it.
	files := []rootFile{{inProgram, binary, 0o711}}
	for _, name := range modules {
		for _, dir := range moduleDirs {
			file := filepath.Join(dir, name)
			if _, err := os.Stat(file); err != nil {
				continue
			}
			if err := libs.add(file); err != nil {
				return nil, err
			}
			files = append(files, rootFile{filepath.Join(inModules, name), file, 0o444})
			break
		}
	}
	if libs.Interp != "" {
		files = append(files, rootFile{libs.Interp, libs.Interp, 0o555})
	}
	for name, file := range libs.Libs {
		files = append(files, rootFile{filepath.Join(inLibs, filepath.Base(name)), file, 0o444})
	}
	found := false
	for _, name := range firmware {
		for _, dir := range firmwareDirs {
			file := filepath.Join(dir, name)
			if _, err := os.Stat(file); err == nil {
				files = append(files, rootFile{filepath.Join(inFirmware, name), file, 0o444})
				found = found || name == "bios-microvm.bin"
				break
			}
		}
	}
	if !found {
		return nil, fmt.Errorf("bios-microvm.bin is in none of %s: the package qemu-system-data has it", strings.Join(firmwareDirs, ", "))
	}
	slices.SortFunc(files, func(a, b rootFile) int { return strings.Compare(a.to, b.to) })
	return files, nil
}

// identify names a set of files by what stat says of them: a package upgrade
// changes that, and hashing 30 MB at every start would not be worth it.
func identify(files []rootFile) (string, error) {
	h := sha256.New()
	for _, f := range files {
		st, err := os.Stat(f.from)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, f.to, f.from, f.mode, st.Size(), st.ModTime().UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func copyFile(to, from string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := out.Chmod(mode); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

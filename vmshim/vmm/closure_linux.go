package vmm

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// closure finds what the dynamic linker would load for programs: for each
// library its name and its file, and the linker itself.
type closure struct {
	dirs   []string
	Interp string            // the path that programs name
	Libs   map[string]string // name → file
}

func newClosure() *closure {
	c := &closure{Libs: map[string]string{}}
	c.dirs = linkerDirs("/etc/ld.so.conf", 0)
	c.dirs = append(c.dirs, "/lib64", "/usr/lib64", "/lib", "/usr/lib")
	return c
}

// linkerDirs reads the linker's configuration: directories, and includes.
func linkerDirs(conf string, depth int) []string {
	f, err := os.Open(conf)
	if err != nil || depth > 4 {
		return nil
	}
	defer f.Close()
	var dirs []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line = strings.TrimSpace(line)
		if pattern, ok := strings.CutPrefix(line, "include "); ok {
			pattern = strings.TrimSpace(pattern)
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join(filepath.Dir(conf), pattern)
			}
			files, _ := filepath.Glob(pattern)
			for _, file := range files {
				dirs = append(dirs, linkerDirs(file, depth+1)...)
			}
		} else if filepath.IsAbs(line) {
			dirs = append(dirs, line)
		}
	}
	return dirs
}

// add takes a program or library and all it needs.
func (c *closure) add(file string) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err != nil {
				return err
			}
			c.Interp = strings.TrimRight(string(name), "\x00")
		}
	}
	var own []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		paths, _ := f.DynString(tag)
		for _, list := range paths {
			for _, dir := range strings.Split(list, ":") {
				own = append(own, strings.NewReplacer("$ORIGIN", filepath.Dir(file), "${ORIGIN}", filepath.Dir(file)).Replace(dir))
			}
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, name := range needed {
		if c.Libs[name] != "" {
			continue
		}
		lib, err := c.find(name, own, f.Class, f.Machine)
		if err != nil {
			return fmt.Errorf("%s needs %s: %w", file, name, err)
		}
		c.Libs[name] = lib
		if err := c.add(lib); err != nil {
			return err
		}
	}
	return nil
}

// find looks for a library of the right kind, in the order of the linker.
func (c *closure) find(name string, own []string, class elf.Class, machine elf.Machine) (string, error) {
	for _, dir := range append(own, c.dirs...) {
		file := filepath.Join(dir, name)
		f, err := elf.Open(file)
		if err != nil {
			continue
		}
		fits := f.Class == class && f.Machine == machine
		_ = f.Close()
		if fits {
			return file, nil
		}
	}
	return "", errors.New("not found in the dynamic linker's directories")
}

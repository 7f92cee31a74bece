package policy

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Runtime is an OCI runtime that the host owner has installed and vouches for.
// It becomes a backend of its name with one level.
type Runtime struct {
	Name string `yaml:"-"`
	// Path is the program, absolute.
	Path string `yaml:"path"`
	// Args go before every command.
	Args []string `yaml:"args"`
	// Kind says which runtime's commands it takes (runsc, runc, crun), where its
	// own --version does not.
	Kind string `yaml:"kind"`
	// Level is what it offers, Strength how strong that is: process is 100, vm
	// is 300. Nobody but the host owner can say; it is shown as theirs.
	Level    string `yaml:"level"`
	Strength int    `yaml:"strength"`
	// Facts are shown with it.
	Facts map[string]string `yaml:"facts"`
}

// Strengths that mean the same on every host.
var levelStrengths = map[string]int{"process": 100, "vm": 300}

// takenNames are those of our own backends, and words that mean something else
// where a runtime is asked for.
var takenNames = []string{"linux", "windows", "vm", "process", "hyperv", "default", "oci"}

// maxStrength bounds a declared strength.
const maxStrength = 1000

// RuntimeList is the declared runtimes in order of their names.
func (p *Policy) RuntimeList() []Runtime {
	list := make([]Runtime, 0, len(p.Runtimes))
	for _, name := range slices.Sorted(maps.Keys(p.Runtimes)) {
		r := p.Runtimes[name]
		r.Name = name
		list = append(list, r)
	}
	return list
}

// checkRuntimes checks and completes the declarations.
func (p *Policy) checkRuntimes() error {
	strengths := maps.Clone(levelStrengths)
	for _, r := range p.RuntimeList() {
		bad := func(format string, a ...any) error {
			return fmt.Errorf("runtimes: %s: %s: %w", r.Name, fmt.Sprintf(format, a...), errdefs.ErrInvalidArgument)
		}
		r.Level = Canonical(r.Level)
		switch {
		case !validName(r.Name):
			return bad("a name has 1 to 32 small letters, digits, - and _")
		case slices.Contains(takenNames, r.Name):
			return bad("this name is taken, choose another")
		case !filepath.IsAbs(r.Path) && !path.IsAbs(r.Path): // the latter where tests run on Windows
			return bad("path must be absolute, not %q", r.Path)
		case !validName(r.Level):
			return bad("level must be named: process, vm or a word of your own of small letters, digits, - and _")
		case slices.Contains(p.runtimeNames(), r.Level) && r.Level != r.Name:
			return bad("level %s is the name of another runtime", r.Level)
		}
		r.Strength = cmp.Or(r.Strength, strengths[r.Level])
		if r.Strength < 1 || r.Strength > maxStrength {
			return bad("strength must be from 1 to %d: process is 100, vm is 300", maxStrength)
		}
		if s, known := strengths[r.Level]; known && s != r.Strength {
			return bad("level %s has strength %d, not %d", r.Level, s, r.Strength)
		}
		strengths[r.Level] = r.Strength
		p.Runtimes[r.Name] = r
	}
	return nil
}

func (p *Policy) runtimeNames() []string { return slices.Collect(maps.Keys(p.Runtimes)) }

// validName keeps what is safe as a directory's name and in messages.
func validName(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// Package contexts stores named engines to connect to, so that a person can
// switch between them: ~/.caisson/contexts/<name>.json, and the name in use in
// ~/.caisson/config.json. The default context is not stored; it is what flags
// and environment say.
package contexts

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Default is the context that always exists.
const Default = "default"

// Context is one engine.
type Context struct {
	Name          string `json:"-"`
	Description   string `json:"description,omitempty"`
	Host          string `json:"host"`
	CA            string `json:"ca,omitempty"`   // paths of PEM files
	Cert          string `json:"cert,omitempty"` //
	Key           string `json:"key,omitempty"`  //
	SkipTLSVerify bool   `json:"skipTLSVerify,omitempty"`
}

// TLS says whether the engine is to be reached with TLS.
func (c Context) TLS() bool { return c.CA != "" || c.Cert != "" || c.Key != "" || c.SkipTLSVerify }

// Store is the directory that the contexts are in.
type Store struct{ dir string }

// Open returns the store in dir, which need not exist.
func Open(dir string) *Store { return &Store{dir} }

func (s *Store) config() string          { return filepath.Join(s.dir, "config.json") }
func (s *Store) path(name string) string { return filepath.Join(s.dir, "contexts", name+".json") }

// Current is the context in use. Without a configuration it is the default.
func (s *Store) Current() (string, error) {
	cfg, err := s.read()
	if err != nil {
		return "", err
	}
	if name, ok := cfg["currentContext"].(string); ok && name != "" {
		return name, nil
	}
	return Default, nil
}

// Use makes name the context in use.
func (s *Store) Use(name string) error {
	if name != Default {
		if _, err := s.Get(name); err != nil {
			return err
		}
	}
	cfg, err := s.read()
	if err != nil {
		return err
	}
	delete(cfg, "currentContext")
	if name != Default {
		cfg["currentContext"] = name
	}
	return writeJSON(s.config(), cfg)
}

// read keeps what it does not know, for newer versions that do.
func (s *Store) read() (map[string]any, error) {
	cfg := map[string]any{}
	b, err := os.ReadFile(s.config())
	if errors.Is(err, fs.ErrNotExist) {
		return cfg, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the client's configuration %s: %w", s.config(), err)
	}
	return cfg, nil
}

// Get returns a stored context.
func (s *Store) Get(name string) (Context, error) {
	if err := CheckName(name); err != nil {
		return Context{}, err
	}
	b, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return Context{}, fmt.Errorf("context %q not found; `caisson context ls` lists those that exist: %w", name, errdefs.ErrNotFound)
	}
	c := Context{}
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return c, fmt.Errorf("cannot read context %q: %w", name, err)
	}
	c.Name = name
	return c, nil
}

// List returns the stored contexts in the order of their names.
func (s *Store) List() ([]Context, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "contexts"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []Context
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || CheckName(name) != nil {
			continue
		}
		c, err := s.Get(name)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Context) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Create stores a new context.
func (s *Store) Create(c Context) error {
	if c.Name == Default {
		return fmt.Errorf("the context %q is built in and cannot be created: %w", Default, errdefs.ErrInvalidArgument)
	}
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if _, err := os.Stat(s.path(c.Name)); err == nil {
		return fmt.Errorf("context %q already exists: %w", c.Name, errdefs.ErrAlreadyExists)
	}
	return writeJSON(s.path(c.Name), c)
}

// Remove removes a context; the one in use only if force, and then the default
// is in use.
func (s *Store) Remove(name string, force bool) error {
	if name == Default {
		return fmt.Errorf("context %q is built in and cannot be removed: %w", Default, errdefs.ErrInvalidArgument)
	}
	if _, err := s.Get(name); err != nil {
		return err
	}
	cur, err := s.Current()
	if err != nil {
		return err
	}
	if cur == name {
		if !force {
			return fmt.Errorf("context %q is in use, set -f flag to force remove: %w", name, errdefs.ErrConflict)
		}
		if err := s.Use(Default); err != nil {
			return err
		}
	}
	return os.Remove(s.path(name))
}

// CheckName wants letters, digits and inner _.+-.
func CheckName(name string) error {
	ok := len(name) > 1
	for i, r := range name {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("_.+-", r)) {
			ok = false
		}
	}
	if !ok {
		return fmt.Errorf("context name %q is invalid: use at least two letters, digits and _.+-, starting with a letter or digit: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// writeJSON replaces a file whole, so that a reader never sees half of it.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

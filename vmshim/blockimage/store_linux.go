package blockimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Options of a Store.
type Options struct {
	// Dir is the store's alone.
	Dir string
	// MaxBytes bounds all images together, as far as they are not in use; zero is
	// without bound.
	MaxBytes int64
	// Log is told what was deleted; nil is nobody.
	Log *slog.Logger
}

// Store keeps images.
type Store struct {
	opts Options

	mu     sync.Mutex
	making map[string]*making
	open   map[string]int // images in use, by key
}

// making is an image that is being made; everybody else who wants it waits.
type making struct {
	done chan struct{}
	err  error
}

const (
	imageSuffix  = ".erofs"
	layersSuffix = ".layers" // beside the image: one directory a line
)

// keys are names of files.
var validKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_:.-]{0,127}$`)

// Open opens a store, deletes what it holds in vain, and takes the rest over.
func Open(opts Options) (*Store, error) {
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, err
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{opts: opts, making: map[string]*making{}, open: map[string]int{}}
	return s, s.Collect()
}

// Image opens the image of layers, the uppermost first, and makes it if it is not
// there. The key names what the layers hold. The file is open for reading and the
// caller's; release says that no machine will be given it any more.
func (s *Store) Image(ctx context.Context, layers []string, key string) (_ *os.File, _ func(), err error) {
	if !validKey.MatchString(key) {
		return nil, nil, fmt.Errorf("image key %q: %w", key, errdefs.ErrInvalidArgument)
	}
	if len(layers) == 0 {
		return nil, nil, fmt.Errorf("an image of no layers: %w", errdefs.ErrInvalidArgument)
	}
	// From here on it is in use and not collected.
	s.mu.Lock()
	s.open[key]++
	s.mu.Unlock()
	release := sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[key]--; s.open[key] == 0 {
			delete(s.open, key)
		}
	})
	defer func() {
		if err != nil {
			release()
		}
	}()
	path := filepath.Join(s.opts.Dir, key+imageSuffix)
	for {
		f, err := os.Open(path)
		if err == nil {
			now := time.Now()
			_ = os.Chtimes(path, now, now)
			return f, release, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		if err := s.ensure(ctx, layers, key, path); err != nil {
			return nil, nil, fmt.Errorf("disk image: %w", err)
		}
	}
}

// ensure makes the image, or waits for who does.
func (s *Store) ensure(ctx context.Context, layers []string, key, path string) error {
	s.mu.Lock()
	m, other := s.making[key], true
	if m == nil {
		m, other = &making{done: make(chan struct{})}, false
		s.making[key] = m
	}
	s.mu.Unlock()
	if !other {
		// Not bound to who asked first: others wait for it too, and it will be
		// wanted again.
		go func() {
			m.err = s.build(context.WithoutCancel(ctx), layers, key, path)
			s.mu.Lock()
			delete(s.making, key)
			s.mu.Unlock()
			close(m.done)
		}()
	}
	select {
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) build(ctx context.Context, layers []string, key, path string) error {
	// First, so that there is no image of which nobody knows the layers.
	list := filepath.Join(s.opts.Dir, key+layersSuffix)
	if err := os.WriteFile(list, []byte(strings.Join(layers, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	f, err := nameless(s.opts.Dir)
	if err != nil {
		return err
	}
	defer f.Close()
	at := time.Now()
	if err := makeImage(ctx, layers, f); err != nil {
		return err
	}
	if err := link(f, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	s.opts.Log.Info("disk image made", "key", key, "layers", len(layers), "took", time.Since(at).Round(time.Millisecond))
	if err := s.Collect(); err != nil {
		s.opts.Log.Warn("old disk images were not deleted", "err", err)
	}
	return nil
}

// entry is an image in the directory.
type entry struct {
	key   string
	bytes int64
	used  time.Time
	lost  bool // its layers are gone
}

// Collect deletes images whose layers are gone, and the longest unused ones above
// the bound.
func (s *Store) Collect() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, total, err := s.list()
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b entry) int { return a.used.Compare(b.used) })
	var errs []error
	for _, e := range entries {
		if s.open[e.key] > 0 || s.making[e.key] != nil {
			continue
		}
		if !e.lost && (s.opts.MaxBytes == 0 || total <= s.opts.MaxBytes) {
			continue
		}
		if err := s.delete(e.key); err != nil {
			errs = append(errs, err)
			continue
		}
		total -= e.bytes
		s.opts.Log.Info("disk image deleted", "key", e.key, "bytes", e.bytes, "layers_gone", e.lost)
	}
	return errors.Join(errs...)
}

// Usage is how many images there are and what they take.
func (s *Store) Usage() (images int, bytes int64, err error) {
	entries, bytes, err := s.list()
	return len(entries), bytes, err
}

func (s *Store) list() (entries []entry, total int64, err error) {
	files, err := os.ReadDir(s.opts.Dir)
	if err != nil {
		return nil, 0, err
	}
	for _, file := range files {
		key, ok := strings.CutSuffix(file.Name(), imageSuffix)
		if !ok {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(s.opts.Dir, file.Name()), &st); err != nil {
			continue // deleted meanwhile
		}
		bytes := st.Blocks * 512
		total += bytes
		entries = append(entries, entry{key, bytes, time.Unix(st.Mtim.Unix()), s.lost(key)})
	}
	return entries, total, nil
}

// lost says whether a layer of an image is not there any more.
func (s *Store) lost(key string) bool {
	data, err := os.ReadFile(filepath.Join(s.opts.Dir, key+layersSuffix))
	if err != nil {
		return true
	}
	return slices.ContainsFunc(strings.Split(strings.TrimSpace(string(data)), "\n"), func(dir string) bool {
		_, err := os.Stat(dir)
		return errors.Is(err, fs.ErrNotExist)
	})
}

func (s *Store) delete(key string) error {
	for _, suffix := range []string{imageSuffix, layersSuffix} {
		if err := os.Remove(filepath.Join(s.opts.Dir, key+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// nameless makes a file that is gone when it is closed, unless link names it.
func nameless(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "make a file in", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// link gives a nameless file its name, when it is on the disk.
func link(f *os.File, path string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	from := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &fs.PathError{Op: "link", Path: path, Err: err}
	}
	return nil
}

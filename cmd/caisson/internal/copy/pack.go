// Package copy moves file trees between this host and tar archives, the way cp
// does between this host and a container.
//
// A container's archive is hostile: Unpack opens everything through an os.Root
// of the destination, so that neither a name nor a link in the archive leads out
// of it, makes no device nodes, and grants no set-user-id bits unless asked to.
package copy

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Pack writes the tree at root to w as an archive in which root is called name;
// with name "." its contents are at the top.
func Pack(w io.Writer, root, name string) error {
	tw := tar.NewWriter(w)
	p := packer{tw: tw, links: map[fileID]string{}}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		return p.add(file, path.Join(name, filepath.ToSlash(rel)))
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

type packer struct {
	tw    *tar.Writer
	links map[fileID]string // first names of files with several
}

func (p *packer) add(file, name string) error {
	fi, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSocket != 0 {
		return nil // a socket means nothing elsewhere
	}
	target := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(file); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(fi, filepath.ToSlash(target))
	if err != nil {
		return err
	}
	h.Name = name
	h.Uname, h.Gname = "", "" // names mean other ids in the container
	h.Format = tar.FormatPAX
	h.AccessTime, h.ChangeTime = h.ModTime, h.ModTime
	if fi.IsDir() {
		h.Name += "/"
	}
	h.Mode = portableMode(h.Mode, fi)
	if id, ok := multiple(fi); ok {
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			p.links[id] = name
		}
	}
	if err := p.tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg || h.Size == 0 {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(p.tw, f, h.Size); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%s became shorter while it was read", file)
		}
		return err
	}
	return nil
}

// Options say how to unpack.
type Options struct {
	// From and To rename the first element of every name, "" leaves it.
	From, To string
	// Archive keeps ids and set-user-id bits, for a user who may.
	Archive bool
	// Skipped is told of each entry that was left out, and why.
	Skipped func(name, why string)
}

// Unpack extracts an archive into dir, which exists.
func Unpack(r io.Reader, dir string, o Options) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	u := unpacker{root: root, o: o}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the container's archive: %w", err)
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("extract %q: %w", h.Name, err)
		}
	}
	// What follows the archive's end is padding.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	return u.finish()
}

type unpacker struct {
	root *os.Root
	o    Options
	dirs []*tar.Header // their times and modes are set last: extracting changes them
}

// local gives an archive's name its place below the root.
func (u *unpacker) local(name string) (string, error) {
	clean := path.Clean("/" + filepath.ToSlash(name))[1:]
	if path.IsAbs(name) || strings.HasPrefix(path.Clean(name), "..") {
		return "", errors.New("the name leads out of the archive")
	}
	if u.o.From != "" {
		first, rest, _ := strings.Cut(clean, "/")
		switch {
		case u.o.From == "." && u.o.To != "":
			clean = path.Join(u.o.To, clean)
		case first == u.o.From:
			clean = path.Join(u.o.To, rest)
		}
	}
	if clean == "" {
		clean = "."
	}
	if !filepath.IsLocal(filepath.FromSlash(clean)) {
		return "", errors.New("the name is not one that this system can use")
	}
	return filepath.FromSlash(clean), nil
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	name, err := u.local(h.Name)
	if err != nil {
		return err
	}
	if dir := filepath.Dir(name); dir != "." {
		if err := u.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	fi, err := u.root.Lstat(name)
	exists := err == nil
	if h.Typeflag == tar.TypeDir {
		switch {
		case exists && !fi.IsDir():
			return errors.New("a directory cannot replace what is not one")
		case !exists:
			if err := u.root.Mkdir(name, 0o700); err != nil {
				return err
			}
		}
		d := *h
		d.Name = name
		u.dirs = append(u.dirs, &d)
		return nil
	}
	if exists && fi.IsDir() {
		return errors.New("a directory is not replaced by what is not one")
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(name, h, r, exists)
	case tar.TypeSymlink:
		if exists {
			if err := u.root.Remove(name); err != nil {
				return err
			}
		}
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return u.owner(name, h)
	case tar.TypeLink:
		target, err := u.local(h.Linkname)
		if err != nil {
			return err
		}
		if exists {
			if err := u.root.Remove(name); err != nil {
				return err
			}
		}
		return u.root.Link(target, name)
	}
	if u.o.Skipped == nil {
		return nil
	}
	u.o.Skipped(h.Name, "device nodes and pipes are not copied to this host")
	return nil
}

func (u *unpacker) file(name string, h *tar.Header, r io.Reader, exists bool) error {
	if exists {
		// A link is replaced, not written through.
		if err := u.root.Remove(name); err != nil {
			return err
		}
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = u.owner(name, h)
	}
	if err == nil {
		err = u.root.Chmod(name, u.mode(h))
	}
	if err == nil {
		err = u.root.Chtimes(name, h.ModTime, h.ModTime)
	}
	return err
}

// mode are the permissions that an entry gets.
func (u *unpacker) mode(h *tar.Header) fs.FileMode {
	m := h.FileInfo().Mode()
	keep := fs.ModePerm
	if u.o.Archive {
		keep |= fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	}
	return m & keep
}

func (u *unpacker) owner(name string, h *tar.Header) error {
	if !u.o.Archive || os.Geteuid() != 0 {
		return nil
	}
	return u.root.Lchown(name, h.Uid, h.Gid)
}

// finish gives directories their modes and times, inner ones first.
func (u *unpacker) finish() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		if d.Name == "." {
			continue // the destination was there before
		}
		err := u.owner(d.Name, d)
		if err == nil {
			err = u.root.Chmod(d.Name, u.mode(d))
		}
		if err == nil {
			err = u.root.Chtimes(d.Name, d.ModTime, d.ModTime)
		}
		if err != nil {
			return fmt.Errorf("extract %q: %w", d.Name, err)
		}
	}
	return nil
}

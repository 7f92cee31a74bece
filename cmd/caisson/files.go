package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// writeOutput copies an archive to the file named, or to standard output unless
// that is a terminal. A file that could not be written whole is not left behind.
func (a *app) writeOutput(path string, open func() (io.ReadCloser, error)) error {
	if path == "" || path == "-" {
		if a.outTTY.Is() {
			return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
		}
		r, err := open()
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(a.out, r)
		return err
	}
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		// A device or pipe: it cannot be replaced, only written to.
		return copyTo(path, open)
	}
	dir := filepath.Dir(path)
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return fmt.Errorf("invalid output path: directory %q does not exist", dir)
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	tmp, err := os.CreateTemp(dir, ".tmp-"+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = io.Copy(tmp, r)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}

func copyTo(path string, open func() (io.ReadCloser, error)) error {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return fmt.Errorf("invalid output path: %q is a directory", path)
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	r, err := open()
	if err != nil {
		w.Close()
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	return err
}

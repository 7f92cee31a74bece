package logs

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Mark names a place between two records of a log that is being written. A
// backend that is killed finds by it which records it wrote since (Replay).
type Mark struct {
	File   uint64 // number of the file in its filesystem, 0: none
	Offset int64  // bytes
}

// Writer appends records to a log. It belongs to one goroutine. There must be
// one at a time per log.
//
// Records are kept in memory until Flush, at most until Append says that the
// file is full; the caller then calls Flush, stores the Mark, and calls Rotate.
// Records of a Writer that was killed lie complete in the file or not at all,
// but for a torn last one, which the next OpenWriter cuts off.
type Writer struct {
	layout
	fixed []byte // encoded attributes
	f     *os.File
	file  uint64
	size  int64 // of the file
	buf   []byte

	compressing sync.WaitGroup
}

// OpenWriter opens a log for appending, and makes it if need be. Errors:
// InvalidArgument for options that Validate refuses.
func OpenWriter(cfg Config) (*Writer, error) {
	l, err := cfg.parse()
	if err != nil {
		return nil, err
	}
	w := &Writer{layout: l}
	if l.codec == nil {
		return w, nil
	}
	w.fixed = l.codec.attrs(cfg.Attrs)
	if err := w.open(os.O_CREATE); err != nil {
		return nil, err
	}
	end, err := soundEnd(w.f, w.size, l.codec)
	if err == nil && end < w.size {
		if err = w.f.Truncate(end); err == nil {
			w.size = end
		}
	}
	if err != nil {
		_ = w.f.Close()
		return nil, fmt.Errorf("log: %w", err)
	}
	return w, nil
}

// open opens the current file.
func (w *Writer) open(flags int) error {
	f, err := openShared(w.path, os.O_RDWR|flags, 0o640)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", w.path)
	}
	if err == nil {
		w.file, err = fileNumber(f)
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("log: %w", err)
	}
	w.f, w.size = f, fi.Size()
	return nil
}

// soundEnd finds where the last complete record of a file ends.
func soundEnd(f io.ReaderAt, size int64, c codec) (int64, error) {
	if size == 0 {
		return 0, nil
	}
	// The last record is checked through its own two ends.
	window := min(size, maxRecord)
	b := make([]byte, min(size, 64<<10))
	for {
		if _, err := f.ReadAt(b, size-int64(len(b))); err != nil {
			return 0, err
		}
		if i := c.back(b); i >= 0 || int64(len(b)) == size && b[len(b)-1] == '\n' {
			if _, n, err := c.next(b[max(i, 0):]); err == nil && n == len(b)-max(i, 0) {
				return size, nil
			}
			break
		}
		if int64(len(b)) >= window {
			break
		}
		b = make([]byte, min(window, int64(len(b))*4))
	}
	// It is torn or damaged: go through from the start.
	s := scanner{codec: c, read: f.ReadAt, skipDamaged: true}
	for {
		if _, err := s.next(); err != nil {
			if errors.Is(err, io.EOF) {
				return s.pos, nil
			}
			return 0, err
		}
	}
}

// Append adds a record. True says that the file has reached its size: Flush and
// Rotate before the next one.
func (w *Writer) Append(r Record) (full bool) {
	if w.codec == nil {
		return false
	}
	w.buf = w.codec.append(w.buf, r, w.fixed)
	return w.maxSize > 0 && w.size+int64(len(w.buf)) >= w.maxSize
}

// Buffered is how many bytes wait for Flush.
func (w *Writer) Buffered() int { return len(w.buf) }

// Flush writes what was appended and returns the place behind it. If the file
// cannot take all of it (a full disk), the records that did not fit are lost,
// the file stays sound, and the error says so.
func (w *Writer) Flush() (Mark, error) {
	if w.codec == nil || len(w.buf) == 0 {
		return w.Mark(), nil
	}
	n, err := w.f.WriteAt(w.buf, w.size)
	if err != nil {
		// Followers may have read the records that are complete, so they stay.
		sound := 0
		for {
			_, size, damaged := w.codec.next(w.buf[sound:n])
			if size == 0 || damaged != nil {
				break
			}
			sound += size
		}
		n, err = sound, errors.Join(err, w.f.Truncate(w.size+int64(sound)))
	}
	w.buf = w.buf[:0]
	w.size += int64(n)
	if err != nil {
		return w.Mark(), fmt.Errorf("log: %w", err)
	}
	return w.Mark(), nil
}

// Mark is the place behind the last flushed record.
func (w *Writer) Mark() Mark { return Mark{w.file, w.size} }

// Trim gives back the memory that Append used.
func (w *Writer) Trim() {
	if len(w.buf) == 0 {
		w.buf = nil
	}
}

// Replay calls fn for each record that was written after m, in order. A mark
// from another file than the current one was the end of that file (see Rotate),
// so everything in the current one is after it.
func (w *Writer) Replay(m Mark, fn func(Record)) error {
	if w.codec == nil {
		return nil
	}
	if m.File != w.file || m.Offset > w.size {
		m.Offset = 0
	}
	s := scanner{codec: w.codec, read: w.f.ReadAt, pos: m.Offset, skipDamaged: true}
	for {
		r, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		fn(r)
	}
}

// Rotate puts the current file aside, deletes the oldest one, and starts a new
// one. All was flushed and its Mark stored before. A kill in between leaves a
// gap in the numbers at worst, which readers pass over and the next Rotate fills.
func (w *Writer) Rotate() (Mark, error) {
	if w.codec == nil {
		return Mark{}, nil
	}
	w.compressing.Wait()
	if err := w.rotate(); err != nil {
		// Better a log that is too large than none.
		if w.f == nil {
			err = errors.Join(err, w.open(os.O_CREATE))
		}
		return w.Mark(), fmt.Errorf("log: rotate: %w", err)
	}
	return w.Mark(), nil
}

func (w *Writer) rotate() error {
	if w.maxFile == 1 {
		// The new file replaces the old one, so that followers see another.
		if err := w.f.Close(); err != nil {
			return err
		}
		w.f = nil
		next := w.path + ".new"
		f, err := openShared(next, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Close(), os.Rename(next, w.path)); err != nil {
			return err
		}
		return w.open(0)
	}
	// Shift only up to the first gap.
	last := 1
	for last < w.maxFile-1 && w.occupied(last) {
		last++
	}
	for _, suffix := range []string{"", ".gz"} {
		if err := os.Remove(w.rotated(last) + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for i := last; i > 1; i-- {
		for _, suffix := range []string{"", ".gz"} {
			err := os.Rename(w.rotated(i-1)+suffix, w.rotated(i)+suffix)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if err := w.f.Close(); err != nil {
		return err
	}
	w.f = nil
	if err := os.Rename(w.path, w.rotated(1)); err != nil {
		return err
	}
	if err := w.open(os.O_CREATE | os.O_EXCL); err != nil {
		return err
	}
	if w.compress {
		w.compressing.Go(func() { _ = compressFile(w.rotated(1)) })
	}
	return nil
}

// Close ends writing. What was not flushed is dropped.
func (w *Writer) Close() error {
	w.compressing.Wait()
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.f = nil
	return err
}

// compressFile replaces a finished file by path.gz. The file stays if that
// fails, so nothing is lost. The header names the file it was, for followers
// that were reading it.
func compressFile(path string) (err error) {
	src, err := openShared(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	name, err := identity(src)
	if err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(path), ".compress-"+filepath.Base(path))
	dst, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	z := gzip.NewWriter(dst)
	z.Comment = name
	_, err = io.Copy(z, src)
	if err = errors.Join(err, z.Close(), dst.Close()); err != nil {
		return err
	}
	if err = os.Rename(tmp, path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}

// identity names a finished file for ever: its number can be used again, but
// not with the same size and first record, which holds the time.
func identity(f *os.File) (string, error) {
	n, err := fileNumber(f)
	if err != nil {
		return "", err
	}
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	line, err := bufio.NewReaderSize(io.NewSectionReader(f, 0, maxRecord), 128<<10).ReadSlice('\n')
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return "", err
	}
	h := fnv.New64a()
	_, _ = h.Write(line)
	return strconv.FormatUint(n, 16) + "-" + strconv.FormatInt(fi.Size(), 16) + "-" + strconv.FormatUint(h.Sum64(), 16), nil
}

package guestos

import (
	"bufio"
	"fmt"
	"io"
)

// File is one entry of an initramfs. Directories come before what is in them.
type File struct {
	Name string // without a leading slash
	Mode uint32 // type and permissions, as in stat
	Dev  [2]uint32
	Size int64
	// Open gives the contents of a regular file.
	Open func() (io.ReadCloser, error)
}

// File types.
const (
	TypeDir    = 0o040000
	TypeFile   = 0o100000
	TypeDevice = 0o020000
)

// WriteCPIO writes files as the kernel's initramfs format, "newc" without
// checksums. Owners are root and times are zero: the same files give the same
// bytes.
func WriteCPIO(w io.Writer, files []File) error {
	out := &counter{w: bufio.NewWriterSize(w, 1<<16)}
	for i, f := range append(files[:len(files):len(files)], File{Name: "TRAILER!!!"}) {
		if f.Size < 0 || f.Size >= 1<<32 {
			return fmt.Errorf("%s: %d bytes do not fit the format", f.Name, f.Size)
		}
		links := 1
		if f.Mode&TypeDir != 0 {
			links = 2
		}
		fmt.Fprintf(out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			i+1, f.Mode, 0, 0, links, 0, f.Size, 0, 0, f.Dev[0], f.Dev[1], len(f.Name)+1, 0)
		fmt.Fprintf(out, "%s\x00", f.Name)
		out.align()
		if f.Open == nil {
			continue
		}
		in, err := f.Open()
		if err != nil {
			return err
		}
		n, err := io.Copy(out, in)
		in.Close()
		if err != nil {
			return err
		}
		if n != f.Size {
			return fmt.Errorf("%s changed while it was read", f.Name)
		}
		out.align()
	}
	if out.err != nil {
		return out.err
	}
	return out.w.Flush()
}

// counter knows how much was written, which the format's padding depends on, and
// keeps the first error.
type counter struct {
	w   *bufio.Writer
	n   int64
	err error
}

func (c *counter) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.err = err
	return n, err
}

func (c *counter) align() {
	_, _ = c.Write(make([]byte, -c.n&3))
}

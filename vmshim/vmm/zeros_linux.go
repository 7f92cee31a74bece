package vmm

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// punchZeros gives back the pages of a memory file that hold nothing but zeros:
// what the guest used and freed, if its kernel cleared it.
func punchZeros(f *os.File, size int64) error {
	const page = 4096
	fd := int(f.Fd())
	zero := make([]byte, page)
	buf := make([]byte, 256*page)
	for at := int64(0); at < size; {
		start, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		} else if err != nil {
			return err
		}
		end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for start < end {
			n, err := f.ReadAt(buf[:min(int64(len(buf)), end-start)], start)
			if n == 0 {
				return err
			}
			run := int64(-1) // where a run of zero pages began
			for off := int64(0); off <= int64(n); off += page {
				isZero := off+page <= int64(n) && bytes.Equal(buf[off:off+page], zero)
				if isZero && run < 0 {
					run = off
				}
				if !isZero && run >= 0 {
					if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, start+run, off-run); err != nil {
						return err
					}
					run = -1
				}
			}
			start += int64(n)
		}
		at = end
	}
	return nil
}

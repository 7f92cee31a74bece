package logs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watch tells, by a value in the channel, that something may have changed in
// the directory of path. One value may stand for many changes. The channel
// closes when the directory is gone or stop was called.
func watch(ctx context.Context, path string) (<-chan struct{}, func(), error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return poll(ctx)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	dir := filepath.Dir(path)
	const events = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EMFILE) {
			return poll(ctx) // the user's watches are used up
		}
		return nil, nil, &fs.PathError{Op: "watch", Path: dir, Err: err}
	}
	c := make(chan struct{}, 1)
	go func() {
		defer close(c)
		buf := make([]byte, 4<<10)
		for {
			if _, err := f.Read(buf); err != nil {
				return
			}
			select {
			case c <- struct{}{}:
			default:
			}
			if _, err := os.Lstat(dir); err != nil {
				return
			}
		}
	}()
	return c, func() { _ = f.Close() }, nil
}

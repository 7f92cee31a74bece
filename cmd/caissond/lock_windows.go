package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// lock takes dir for this process; the system gives it back when the process ends.
func lock(dir, option string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "caissond.lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is in use by another caissond: stop that one, or choose another --%s", dir, option)
	}
	return f, nil
}

package vmm

import "golang.org/x/sys/unix"

// KeepOnExec lets the descriptors survive an exec of the caller.
func (l *Launched) KeepOnExec() error {
	for _, f := range l.Files() {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	return nil
}

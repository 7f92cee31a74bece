package images

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// overlayOptions turns the index off where a kernel has it on: it ties an
// upper directory to its first mount's file handles, which a host's move of
// the data root changes.
var overlayOptions = sync.OnceValue(func() []string {
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err != nil {
		return nil
	}
	return []string{"index=off"}
})

// copyRootOwner gives an upper directory the mode and owner of the layer below
// it: the root of an overlay is the upper one's.
func copyRootOwner(lower, upper string) error {
	var st unix.Stat_t
	if err := unix.Stat(lower, &st); err != nil {
		return fmt.Errorf("look at layer %s: %w", lower, err)
	}
	if st.Uid != 0 || st.Gid != 0 {
		if err := unix.Chown(upper, int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("make root filesystem: %w", err)
		}
	}
	if err := unix.Chmod(upper, st.Mode&0o7777); err != nil {
		return fmt.Errorf("make root filesystem: %w", err)
	}
	return nil
}

// removeRoot deletes a root. One that nothing was written to, the common case,
// goes without a look into its directories.
func removeRoot(dir string) error {
	_ = unix.Unlink(dir + "/image")
	for _, d := range []string{"/work/work", "/work", "/upper", ""} {
		_ = unix.Rmdir(dir + d)
	}
	return os.RemoveAll(dir)
}

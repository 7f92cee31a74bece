package blockimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// makeImage writes the merged layers into f as EROFS.
func makeImage(ctx context.Context, layers []string, f *os.File) error {
	tool, err := exec.LookPath("mkfs.erofs")
	if err != nil {
		return fmt.Errorf("mkfs.erofs is not installed (Debian: erofs-utils): %w", errdefs.ErrUnavailable)
	}
	return onOwnThread(func() error {
		at, err := mergeLayers(layers)
		if err != nil {
			return fmt.Errorf("layers: %w", err)
		}
		return runTool(ctx, tool, at, f)
	})
}

// onOwnThread runs f on a thread that ends with it, and with the thread its mount
// namespace and all mounts in it. The process's first thread never ends, so when
// it is given that one it holds on to it and asks for another.
func onOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- onOwnThread(f)
			return
		}
		done <- f()
	}()
	return <-done
}

// mergeLayers mounts the layers over each other, read-only, in a new mount
// namespace of this thread. An image chose the names below the layers, but no path
// there is looked up by us.
func mergeLayers(layers []string) (string, error) {
	// CLONE_FS first: a thread that shares its working directory with others may
	// not change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return "", fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", err
	}
	if len(layers) == 1 {
		return layers[0], nil
	}
	// A mount's options fit into one page: layers get short names, on a file system
	// of this namespace over some directory that is always there.
	dir, err := privateDir()
	if err != nil {
		return "", err
	}
	names := make([]string, len(layers))
	for i, layer := range layers {
		names[i] = strconv.Itoa(i)
		if err := os.Symlink(layer, filepath.Join(dir, names[i])); err != nil {
			return "", err
		}
	}
	merged := filepath.Join(dir, "merged")
	if err := os.Mkdir(merged, 0o700); err != nil {
		return "", err
	}
	if err := unix.Chdir(dir); err != nil {
		return "", err
	}
	if err := unix.Mount("overlay", merged, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(names, ":")); err != nil {
		return "", fmt.Errorf("overlay of %d layers: %w", len(layers), err)
	}
	return merged, nil
}

// privateDir is an empty directory that only this mount namespace has.
func privateDir() (string, error) {
	for _, at := range []string{"/run", "/tmp", "/mnt"} {
		if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=1m,mode=700"); err == nil {
			return at, nil
		}
	}
	return "", errors.New("none of /run, /tmp and /mnt is a directory to mount on")
}

// runTool runs mkfs.erofs in the thread's mount namespace, with no network and
// with nothing to see but itself.
func runTool(ctx context.Context, tool, from string, to *os.File) error {
	cmd := exec.CommandContext(ctx, tool,
		"--quiet",
		// Every file keeps its time; the image's own id is always the same.
		"--preserve-mtime", "-U", "00000000-0000-0000-0000-000000000000",
		"/proc/self/fd/3", from)
	cmd.ExtraFiles = []*os.File{to}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.erofs: %w: %.300q", err, out)
	}
	return nil
}

//go:build !windows

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// defaultGroup may use the socket, where it exists.
const defaultGroup = "caisson"

const socketMode = 0o660

func pipeAddress(string, *config) (string, error) {
	return "", errors.New("named pipes exist on Windows only")
}

func listenPipe(context.Context, string, *config) ([]listener, error) {
	return nil, errors.New("named pipes exist on Windows only")
}

// listenUnix makes the socket under another name, gives it its owner and mode,
// and only then moves it to its place: nobody can connect to it before, and a
// stale one is replaced without a gap.
func listenUnix(ctx context.Context, path string, c *config) ([]listener, error) {
	gid, err := socketGroup(c.Group)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := checkStale(ctx, path); err != nil {
		return nil, err
	}
	var r [3]byte
	_, _ = rand.Read(r[:]) // never fails
	tmp := filepath.Join(filepath.Dir(path), "."+hex.EncodeToString(r[:]))
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", tmp)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	err = os.Chmod(tmp, socketMode)
	if err == nil && gid >= 0 {
		err = os.Chown(tmp, -1, gid)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(tmp)
		return nil, err
	}
	ours, _ := os.Lstat(path)
	return one(l, "unix://"+path, func() {
		// Another daemon may have put its own there meanwhile.
		if now, err := os.Lstat(path); err == nil && os.SameFile(ours, now) {
			_ = os.Remove(path)
		}
	}), nil
}

// checkStale lets a socket be replaced only if nobody answers on it.
func checkStale(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is in the way: it is not a socket", path)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%s: another daemon answers on it", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("finding out whether another daemon uses %s: %w", path, err)
	}
	return nil
}

// socketGroup is the group's number, -1 to leave the socket's group alone.
func socketGroup(name string) (int, error) {
	lookup := name
	if name == "" {
		lookup = defaultGroup
	}
	if n, err := strconv.Atoi(lookup); err == nil && n >= 0 {
		return n, nil
	}
	g, err := user.LookupGroup(lookup)
	if err != nil {
		if name == "" {
			return -1, nil
		}
		return -1, fmt.Errorf("--group: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

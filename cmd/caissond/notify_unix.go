//go:build !windows

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// notify tells the service manager about this daemon's state, if there is one:
// sd_notify(3) is one datagram.
func notify(state ...string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return // the manager's loss: it will think that we did not start, and say so
	}
	defer func() { _ = conn.Close() }()
	_, _ = conn.Write([]byte(strings.Join(state, "\n")))
}

// watchdogInterval is how often the service manager wants to hear that we live,
// 0 if it does not.
func watchdogInterval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// supervised tells whether a service manager started us and will do so again.
func supervised() bool {
	return os.Getenv("NOTIFY_SOCKET") != "" || os.Getenv("INVOCATION_ID") != ""
}

func activatable() error { return nil }

// firstActivated is the first descriptor that sd_listen_fds(3) speaks of.
const firstActivated = 3

// listenActivated takes the sockets that the service manager passed, all or
// those of a name. A tcp socket among them is held to the same rules as one of
// our own.
func listenActivated(_ context.Context, name string, c *config) ([]listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("the service manager passed no sockets (LISTEN_PID)")
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 || n > 64 {
		return nil, errors.New("the service manager passed no sockets (LISTEN_FDS)")
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	var out []listener
	for i := range n {
		if name != "" && name != "*" && (i >= len(names) || names[i] != name) {
			continue
		}
		fd := firstActivated + i
		syscall.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "activated")
		l, err := net.FileListener(f)
		_ = f.Close() // FileListener has its own
		if err != nil {
			return nil, fmt.Errorf("socket %d of the service manager: %w", i, err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // it is the service manager's
		}
		label := "fd://" + l.Addr().String()
		if l.Addr().Network() == "tcp" {
			label = "tcp://" + l.Addr().String()
			if _, err := tcpAddress(l.Addr().String(), c); err != nil {
				return nil, fmt.Errorf("%s: %w", label, err)
			}
			t, err := tlsConfig(c)
			if err != nil {
				return nil, err
			}
			if t != nil {
				l = tls.NewListener(l, t)
			}
		}
		out = append(out, listener{l, label, func() {}})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the service manager passed no socket named %q", name)
	}
	return out, nil
}

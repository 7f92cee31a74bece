//go:build !windows

package main

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stopSignals ask us to end.
var stopSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}

// proxiedSignals are passed on to a container. Not among them: those that
// concern our children, pipes and terminal (a window that is resized would tell
// some servers to end), and the real-time ones.
var proxiedSignals = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGUSR1, syscall.SIGUSR2,
	syscall.SIGALRM, syscall.SIGTERM, syscall.SIGCONT, syscall.SIGTSTP,
}

// signalName is the name that the engine knows s by, "" if it is not for it.
func signalName(s os.Signal) string {
	sig, ok := s.(syscall.Signal)
	if !ok {
		return ""
	}
	return strings.TrimPrefix(unix.SignalName(sig), "SIG")
}

func signalNumber(s os.Signal) int {
	if sig, ok := s.(syscall.Signal); ok {
		return int(sig)
	}
	return 0
}

// isReset says whether the other end of a connection died.
func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

package main

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// stopSignals ask us to end.
var stopSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}

// proxiedSignals are passed on to a container.
var proxiedSignals = stopSignals

// signalName is the name that the engine knows s by, "" if it is not for it.
func signalName(s os.Signal) string {
	switch s {
	case os.Interrupt:
		return "INT"
	case syscall.SIGTERM:
		return "TERM"
	}
	return ""
}

func signalNumber(s os.Signal) int {
	if sig, ok := s.(syscall.Signal); ok {
		return int(sig)
	}
	return 0
}

// isReset says whether the other end of a connection died.
func isReset(err error) bool {
	return errors.Is(err, syscall.WSAECONNRESET) || errors.Is(err, windows.ERROR_BROKEN_PIPE) || errors.Is(err, windows.ERROR_PIPE_NOT_CONNECTED)
}

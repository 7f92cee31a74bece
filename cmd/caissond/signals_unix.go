//go:build !windows

package main

import (
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	reloadSignal = syscall.SIGHUP
	dumpSignal   = syscall.SIGUSR1
)

var handled = []os.Signal{syscall.SIGTERM, syscall.SIGINT, reloadSignal, dumpSignal}

// monotonicMicros is the clock by which systemd orders a reload's messages.
func monotonicMicros() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return "0"
	}
	return strconv.FormatInt(ts.Nano()/1000, 10)
}

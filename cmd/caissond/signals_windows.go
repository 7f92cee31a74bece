package main

import (
	"os"
	"syscall"
)

// Windows has no such signals; these numbers are never delivered.
const (
	reloadSignal = syscall.Signal(0x101)
	dumpSignal   = syscall.Signal(0x102)
)

var handled = []os.Signal{os.Interrupt, syscall.SIGTERM}

func monotonicMicros() string { return "0" }

//go:build linux

// Command caisson-init is the first program inside a new container. It is
// started by the keeper, never by hand; package initproc tells what it does.
package main

import (
	"syscall"
	_ "unsafe" // linkname

	"github.com/caisson-engine/caisson/platform_linux/initproc"
)

// The arguments, without package os and what it brings along.
//
//go:linkname runtimeArgs os.runtime_args
func runtimeArgs() []string

// All is done in init, during which the main goroutine is on the first thread
// anyway. Locking it there by hand would start one more thread, as a template for
// others: a tenth of the whole start.
func init() {
	if args := runtimeArgs(); len(args) > 2 {
		initproc.ReapMain(args[1:], syscall.Environ())
	}
	initproc.Main()
}

func main() {}

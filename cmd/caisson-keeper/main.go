//go:build linux

// Command caisson-keeper is the parent of all containers of one backend. It is
// started by the backend, never by hand; package keeper tells what it does.
//
//	caisson-keeper <directory> <caisson-init> [<descriptor of the first connection>]
package main

import (
	"runtime"
	"strconv"
	"syscall"
	_ "unsafe" // linkname

	"github.com/caisson-engine/caisson/platform_linux/keeper/server"
)

func init() { runtime.LockOSThread() }

// The arguments, without package os and what it brings along.
//
//go:linkname runtimeArgs os.runtime_args
func runtimeArgs() []string

func main() {
	args := runtimeArgs()
	if len(args) < 3 {
		fail("usage: caisson-keeper <directory> <caisson-init> [<descriptor>]; it is started by caisson-backend-linux")
	}
	first := -1
	if len(args) > 3 {
		n, err := strconv.Atoi(args[3])
		if err != nil {
			fail("caisson-keeper: " + args[3] + " is no descriptor")
		}
		first = n
	}
	if err := server.Run(args[1], args[2], first); err != nil {
		fail("caisson-keeper: " + err.Error())
	}
}

func fail(message string) {
	_, _ = syscall.Write(2, []byte(message+"\n"))
	syscall.Exit(1)
}

//go:build linux

// Command caisson-vmshim owns one virtual machine. caisson-backend-vm starts it,
// never a hand; package host tells what it does.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/caisson-engine/caisson/vmshim/host"
	"github.com/caisson-engine/caisson/vmshim/vmm"
)

// The monitor dies with the thread that started it, so all is done on the first.
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) > 1 && os.Args[1] == host.JailStage {
		vmm.RunStage()
	}
	run := host.Main
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], host.FilesStage) {
		run = host.ServeFiles
	}
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "caisson-vmshim:", err)
		os.Exit(1)
	}
}

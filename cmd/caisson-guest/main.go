//go:build linux

// Command caisson-guest is the first process of a virtual machine. It lies in the
// machine's initramfs; package guest tells what it does.
package main

import (
	"fmt"
	"os"
	"syscall"

	"github.com/caisson-engine/caisson/vmshim/guest"
)

// version is set by the build.
var version = "dev"

func main() {
	err := guest.Main(version)
	fmt.Fprintln(os.Stderr, "caisson-guest:", err)
	if os.Getpid() == 1 {
		syscall.Sync()
		_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	}
	os.Exit(1)
}

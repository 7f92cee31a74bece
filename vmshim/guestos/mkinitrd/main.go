// Command mkinitrd writes a guest's initramfs.
//
//	mkinitrd OUT INIT [BIN…] [-- MODULE…]
package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/caisson-engine/caisson/vmshim/guestos"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: mkinitrd OUT INIT [BIN...] [-- MODULE...]")
		os.Exit(2)
	}
	p := guestos.Programs{Init: os.Args[2], Bin: os.Args[3:]}
	if i := slices.Index(p.Bin, "--"); i >= 0 {
		p.Bin, p.Module = p.Bin[:i], p.Bin[i+1:]
	}
	if err := guestos.Initramfs(os.Args[1], p); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitrd:", err)
		os.Exit(1)
	}
}

//go:build linux

// Command caisson-dns answers the name queries of containers. caissond starts it.
package main

import (
	"fmt"
	"os"

	"github.com/caisson-engine/caisson/platform_linux/hostnet/resolver"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "caisson-dns is started by caissond")
		os.Exit(2)
	}
	if err := resolver.Main(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "caisson-dns:", err)
		os.Exit(1)
	}
}

// caisson-hello is the program of the image caisson/hello: it prints what a
// container sees of the world, so that a new user can compare levels.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// fact is one line of the report. Empty values are left out.
type fact struct{ name, value string }

func main() {
	fmt.Print("\nHello from Caisson: your container runs.\n\n")
	host, _ := os.Hostname()
	facts := append([]fact{
		{"platform", runtime.GOOS + "/" + runtime.GOARCH},
		{"hostname", host},
	}, platformFacts()...)
	for _, f := range facts {
		if f.value != "" {
			fmt.Printf("  %-14s %s\n", f.name, f.value)
		}
	}
	fmt.Println()
}

// firstLine is the first line of a file, "" if it cannot be read.
func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

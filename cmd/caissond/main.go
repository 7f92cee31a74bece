// caissond is the engine's daemon. Nothing but wiring happens here: flags and
// config file become constructors' arguments, and signals become calls.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
)

// Set by the linker.
var (
	version = "dev"
	commit  = "unknown"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings named; it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	cfg, cmd, err := load(args)
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "caissond:", err)
		return 1
	case cmd.help:
		printHelp(stdout)
		return 0
	case cmd.version:
		fmt.Fprintf(stdout, "caissond version %s, commit %s, %s/%s, %s\n", version, commit, runtime.GOOS, runtime.GOARCH, runtime.Version())
		return 0
	case cmd.validate:
		if err := validate(cfg); err != nil {
			fmt.Fprintln(stderr, "caissond:", err)
			return 1
		}
		fmt.Fprintln(stdout, "configuration OK")
		return 0
	}
	d, err := newDaemon(cfg, args, stderr)
	if err == nil {
		err = d.run()
	}
	if err != nil {
		fmt.Fprintln(stderr, "caissond:", err)
		return 1
	}
	return 0
}

// validate checks what load cannot: the files that the configuration names.
func validate(c *config) error {
	_, terr := tlsConfig(c)
	_, perr := loadPolicy(c)
	_, serr := seccompProfile(c)
	return errors.Join(terr, perr, serr)
}

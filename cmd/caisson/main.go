// Command caisson is the command line of the Caisson engine. It has Docker's
// verbs and flags and speaks Docker's API, so it drives any engine that serves
// that.
//
// Each verb is a file with one row: its name, what its help says, and a function
// that registers its flags and returns what to do. Only the verb that was asked
// for registers its flags, so a command starts fast however many there are.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
)

func main() {
	// What a command does is wait for the engine. One processor is enough for
	// that, and saves the runtime from waking threads that find nothing to do,
	// which is a fifth of the time that a short command takes.
	runtime.GOMAXPROCS(1)
	a := newApp()
	code := a.run(context.Background(), os.Args[1:])
	a.close()
	os.Exit(code)
}

// run executes a command line, prints what went wrong and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	err := a.execute(ctx, args)
	if err == nil {
		return 0
	}
	var st *statusError
	if errors.As(err, &st) {
		if st.err != nil {
			fmt.Fprintln(a.err, st.err)
		}
		return st.code
	}
	fmt.Fprintln(a.err, err)
	return 1
}

// Exit codes of our own, Docker's. A container's own code goes through as it is.
const (
	exitUsage      = 125 // the command line, or the engine, refused
	exitNotRunable = 126 // the program exists but cannot be executed
	exitNotFound   = 127 // the program does not exist
)

// statusError ends the command with code, after printing err unless it is nil.
type statusError struct {
	code int
	err  error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// exitCode makes the error for a process's exit code, nil for success.
func exitCode(code int) error {
	if code == 0 {
		return nil
	}
	return &statusError{code: code}
}

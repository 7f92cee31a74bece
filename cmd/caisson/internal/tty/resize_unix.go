//go:build !windows

package tty

import (
	"os"
	"os/signal"
	"syscall"
)

// Resized calls f whenever the terminal's size changes, until stop is called.
func (t Terminal) Resized(f func()) (stop func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGWINCH)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-ch:
				f()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(done)
	}
}

// Package tty is what the command line needs of terminals: whether a stream is
// one, its size and its changes, raw mode that is always undone, and the key
// sequence that detaches from a container.
package tty

package tty

import (
	"os"
	"sync"

	"github.com/moby/term"
)

// Terminal is a terminal behind a file. The zero value is none.
type Terminal struct {
	f *os.File
}

// Of returns the terminal behind f; the zero Terminal if f is not one.
func Of(f *os.File) Terminal {
	if f == nil || !term.IsTerminal(f.Fd()) {
		return Terminal{}
	}
	return Terminal{f}
}

// Is says whether there is a terminal.
func (t Terminal) Is() bool { return t.f != nil }

// Size is the terminal's size in characters.
func (t Terminal) Size() (rows, cols uint, ok bool) {
	if t.f == nil {
		return 0, 0, false
	}
	ws, err := term.GetWinsize(t.f.Fd())
	if err != nil || ws.Height == 0 && ws.Width == 0 {
		return 0, 0, false
	}
	return uint(ws.Height), uint(ws.Width), true
}

// RawInput passes keys through as they are typed until restore is called.
// restore may be called more than once.
func (t Terminal) RawInput() (restore func(), err error) {
	return t.raw(term.SetRawTerminal)
}

// RawOutput passes control sequences to the terminal until restore is called.
// Outside Windows terminals always do.
func (t Terminal) RawOutput() (restore func(), err error) {
	return t.raw(term.SetRawTerminalOutput)
}

// NoEcho hides what is typed until restore is called.
func (t Terminal) NoEcho() (restore func(), err error) {
	return t.raw(func(fd uintptr) (*term.State, error) {
		st, err := term.SaveState(fd)
		if err != nil {
			return nil, err
		}
		return st, term.DisableEcho(fd, st)
	})
}

func (t Terminal) raw(set func(uintptr) (*term.State, error)) (func(), error) {
	if t.f == nil {
		return func() {}, nil
	}
	fd := t.f.Fd()
	st, err := set(fd)
	if err != nil || st == nil {
		return func() {}, err
	}
	return sync.OnceFunc(func() { _ = term.RestoreTerminal(fd, st) }), nil
}

package vmm

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Why a machine ended by our own doing.
var (
	ErrKilled = errors.New("the virtual machine was killed")
	ErrSaved  = errors.New("the virtual machine became a template")
)

// Exit is why a machine ended by itself.
type Exit struct {
	Reason Reason
	// Detail is one line: the panic's message, the monitor's last words. It may
	// come from the guest and is cut and cleaned.
	Detail string
	// Signal that ended the monitor: always for Signalled; for Failed if it crashed.
	Signal syscall.Signal
}

// Reason is a kind of end.
type Reason string

const (
	// GuestShutdown: the guest asked for a reset or power-off. That is how the
	// guest's own init ends the machine.
	GuestShutdown Reason = "guest-shutdown"
	// GuestPanic: the guest's kernel gave up.
	GuestPanic Reason = "guest-panic"
	// Signalled: somebody killed the monitor; SIGKILL is most often the host's
	// out-of-memory killer, which the cgroup's counters tell.
	Signalled Reason = "signalled"
	// Failed: the monitor ended with an error of its own, or crashed.
	Failed Reason = "monitor-failed"
)

func (e *Exit) Error() string {
	var b strings.Builder
	switch e.Reason {
	case GuestShutdown:
		b.WriteString("the guest shut down")
	case GuestPanic:
		b.WriteString("the guest's kernel panicked")
	case Signalled:
		fmt.Fprintf(&b, "the virtual machine's process was killed by %v", e.Signal)
	default:
		b.WriteString("the virtual machine monitor failed")
		if e.Signal != 0 {
			fmt.Fprintf(&b, " (%v)", e.Signal)
		}
	}
	if e.Detail != "" {
		b.WriteString(": ")
		b.WriteString(e.Detail)
	}
	return b.String()
}

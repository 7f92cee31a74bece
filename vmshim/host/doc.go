// Package host is the process that owns one virtual machine: caisson-vmshim.
//
// It is the only one that reads what a guest says. A guest is hostile: its kernel
// may be the tenant's by the time it answers. So this process has no rights at
// all, belongs to one machine only, and passes nothing on that it did not check.
// What it serves to the backend is the backend contract again, with the same
// messages, rebuilt from what was found to be within bounds (see check.go).
//
// # Two stages
//
//	stage 0, root:  reads its Config from the backend, starts the monitor in its
//	                jail, gives up every right, and executes itself as
//	stage 1:        no capabilities, the machine's own uid, an empty root, no
//	                network; attaches to the monitor, speaks with the guest
//
// Nothing of a guest exists before stage 1.
//
// # What survives what
//
// The backend can be killed at any time: this process goes on, holds the pipes
// that output goes through, and remembers who has started and ended. The monitor
// dies with this process. If the machine ends by itself, this process stays to
// tell why, until the backend closes the sandbox.
//
// # Output
//
// The backend makes two FIFOs per process in a directory that this process has
// open, and holds both their ends, as does this process: what was written is in
// one of them or in the backend's spool, whoever is killed. A full FIFO makes this
// process stop reading from the guest, and the guest's process wait.
package host

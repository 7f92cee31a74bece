// Package runtime runs Linux processes in isolation: it turns an OCI runtime
// spec and a list of mounts into a running container, and keeps hold of it
// whoever of us dies.
//
// # Who does what
//
// A Runtime lives in the backend. It never forks: it asks the keeper (see
// package keeper), a tiny process that outlives the backend, and that is the
// parent of every container. The keeper forks with the namespaces and cgroups
// that the request names and executes caisson-init (see package initproc) from
// a sealed memory file; caisson-init takes its instructions from the Runtime
// over a socket pair, builds the container around itself step by step, says
// that it is ready, waits at the start gate, and executes the program.
//
// # The life of a process
//
//	Create or Exec → (blocked right before exec) → Start → Done() closes, Exit() tells → Release
//
// Create returns once everything that can be made before the program runs was
// made. Start opens the gate and returns when the program was executed, or an
// *ExecFailure when it cannot be. A process that is killed or whose Runtime
// fails between the two ends without running anything. Release forgets it and
// kills it if it still lives.
//
// # Survival
//
// If the backend dies, a new one opens a Runtime on the same directory and
// calls Recover: the keeper gives back every process, its exit if it ended, and
// all files that Hold gave it. If the keeper dies, the Runtime starts another
// at once and gives it everything again. Exits are then read from the pidfd
// (Linux 6.15 and later) or, on older kernels, are unknown. If both die, the
// processes that still live are found by the keeper's journal.
package runtime

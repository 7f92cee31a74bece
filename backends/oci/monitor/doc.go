// Package monitor is the process that lets the oci backend be killed: one for
// each declared runtime, for all its containers.
//
// An OCI runtime leaves a container's first process to whoever is the next
// subreaper above it, and holds none of its pipes. Both are the monitor's: it
// runs the runtime's create and exec as its children, so that their processes
// become its own, writes down how each ends, and holds what must not be closed
// while no backend runs: pipe ends, terminals, pidfds, network namespaces. It
// decides nothing and parses nothing that a container says.
//
// # Who survives whom
//
// A backend that was killed finds everything again by List. A monitor that was
// killed is started again by the backend's Client, which has duplicates of all
// that was held and hands them back. The containers are another's children then;
// how they end is told by their pidfds (Linux 6.15 or later; before that as an
// unknown exit). Only if both are killed at once are exit codes and the content
// of pipes lost.
//
// A monitor that holds nothing ends with its last connection.
package monitor

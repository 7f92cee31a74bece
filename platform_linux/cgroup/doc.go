// Package cgroup puts containers into control groups, on hosts with version 1
// (also beside an empty version 2, "hybrid") and on hosts with version 2 only.
//
// # The life of a group
//
//	Open(host) → Create(path, limits) → [Update, Stats, Freeze, Thaw, Kill]* → Delete
//
// Create makes one directory in each hierarchy and writes the limits. It puts
// nobody into the group: who starts the first process does, by CLONE_INTO_CGROUP
// on V2 and by letting the new process write "0" into each of TaskFiles. (A
// single thread that moves itself needs no lock of the kernel's; writing another
// process's id into cgroup.procs waits for an RCU grace period, which was
// measured at 36 ms here.)
//
// A limit for which the host has no controller is a warning from Create, never
// silence; only device rules that cannot be enforced are an error, since they
// are a border and not a budget.
//
// Paths are absolute inside the hierarchy, such as /caisson-1234/abcd, and the
// same in every hierarchy. Memory is in bytes, time in nanoseconds unless a name
// says otherwise.
package cgroup

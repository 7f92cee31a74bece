// Package seccomp compiles the linux.seccomp section of an OCI spec to the
// program that the kernel's seccomp filter runs.
//
// The meaning is libseccomp's, as runc uses it: a rule without conditions wins
// over rules with conditions for the same system call; several conditions of one
// rule must all hold, unless two of them look at the same argument, when each is
// a rule of its own; a system call newer than all that the profile names gets
// ENOSYS, so that programs fall back to older ones, unless the default lets it
// pass anyway; a call of an architecture that the profile does not name kills.
//
// The program is a binary search over ranges of numbers with the same action,
// some eight comparisons deep for Docker's profile, where libseccomp's is a list
// of hundreds. It is pure computation, the same on every host.
package seccomp

//go:generate go run ./internal/gentables

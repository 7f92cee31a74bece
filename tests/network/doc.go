// Package network holds what networks promise beyond single commands: what
// reaches what, names that are served while processes are killed, and what is
// left when networks are gone.
package network

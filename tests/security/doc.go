// Package security looks at containers from the inside: a probe that runs in a
// container of Docker's and of ours must find ours no looser, and what once broke
// other engines must not break this one.
package security

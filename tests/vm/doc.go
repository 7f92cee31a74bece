// Package vm drives the vm level with the real command lines: what a user sees of a
// container that runs in a virtual machine of its own.
package vm

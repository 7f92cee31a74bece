// Package vmm starts virtual machines.
package vmm

// Package guest is PID 1 of a virtual machine: it makes an initramfs into a place
// where containers run, and serves what package guestpb describes.
//
// The containers themselves are the business of the same Linux backend that runs
// them at the process level, with the same keeper and the same first stage, so
// that user, capabilities, seccomp, mounts, limits, terminals and execs behave
// the same. What is different here is only where things come from: the root
// filesystem from disks, the network from the machine, small files from the host.
package guest

// Package guestos makes what a guest boots: the initramfs, and, where our own
// kernel was not built, the modules that Debian's needs.
//
// The initramfs holds three static programs and empty directories:
//
//	/init                the guest's init, cmd/caisson-guest
//	/bin/caisson-init    the first stage of a container
//	/bin/caisson-keeper  the containers' parent
//	/lib/modules/        only for Debian's kernel: modules, and their order in "load"
//
// It is the same, byte for byte, when its parts are: templates are keyed by it.
//
// The kernel is built by scripts/guest-kernel from Debian's source package and
// kernel.config beside this file.
package guestos

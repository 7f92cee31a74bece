// Package mount turns OCI mount options into what the kernel's descriptor-based
// mount calls take, and makes mounts with them.
//
// A mount is made detached (FS, Tree), given its attributes, and only then
// attached to a descriptor of its target (Attach). So no path is looked up
// between the check of a target and its use, and a mount never shows itself
// with weaker attributes than it was asked for.
//
// The package is used inside caisson-init and therefore imports little.
package mount

// Package share gives virtual machines directories and files of the host: the same
// files that containers at other levels and the host itself see.
//
// # How a file gets into a guest
//
//	program ── guest's kernel (FUSE) ── agent ══ port ══ server (here) ── host's files
//
// The guest's kernel speaks the FUSE protocol. Its agent only carries messages
// between /dev/fuse and a port of the machine, in frames (package guestpb); the
// server is one process per machine that has shares, at the port's other end. No
// device takes part, so a machine with shares can be a clone of a template, and
// shares can be added while it runs.
//
// # Who checks what
//
// The guest's kernel checks permissions, as it does for any file system: who the
// host's owner lets into a directory is root there, as with a container's bind mount
// at the process level. The server checks what the host relies on, since the guest
// is hostile: it stays below the directories that it was given, by looking up one
// name at a time from an open directory and following no link; it opens regular
// files and directories only; it makes no device. A share that is read-only is a
// read-only mount of the host's. What else bounds it is the jail that it runs in:
// see package host.
//
// # What is the same everywhere, and what is not
//
// Owners, modes, times, links, sparse files, extended attributes, locks (also between
// levels), renames and mapped files are the host's own. A change made elsewhere is
// seen within Validity, at the latest when the file is opened. FIFOs and sockets are
// only names: each kernel has its own behind them. What happens elsewhere raises no
// inotify event.
package share

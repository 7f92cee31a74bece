// Package unpack turns a layer, which is hostile bytes, into a directory. One
// pass decompresses it, hashes what comes out (the diff id) and writes the
// files, each step in a goroutine of its own, so that a layer unpacks while it
// is being downloaded and several of them do so side by side.
//
// No entry leaves the directory: parents are resolved by the kernel inside it,
// names are created relative to their parent's descriptor and never followed.
package unpack

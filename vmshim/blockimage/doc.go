// Package blockimage makes the disks of virtual machines.
//
// # Images
//
// An image is the read-only file system of a container image's layers, merged, as
// one EROFS file, uncompressed: the host's page cache is then the cache of all
// machines, and a guest reads it as fast as its disk. It is made once per chain of
// layers, which takes about as long as reading them, and serves every machine of
// the host.
//
//	Store.Image ──▶ there? open it ──▶ release
//	     └─ else: overlay of the layers, read-only, in a mount namespace that only
//	        mkfs.erofs sees and that ends with it ──▶ a file without a name ──▶ link
//
// So nothing is ever half there, and a kill at any moment leaves nothing behind.
//
// Images go when one of their layers is gone, and, the longest unused first, when
// there is more of them than the store may hold. An image that is open is never
// deleted by its store; and if it were, a running machine would keep its contents.
//
// # Scratch
//
// A scratch disk is an empty ext4, sparse, whose size is the quota of what is
// written to it. Making one is copying the few blocks of a prepared one.
package blockimage

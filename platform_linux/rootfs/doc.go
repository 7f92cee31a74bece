// Package rootfs reads and writes a container's filesystem from the host
// without running anything of the container: cp, export, diff and the layer of
// a commit. Every path is resolved inside the container's root by the kernel
// (openat2, RESOLVE_IN_ROOT), so a symlink swapped at any moment leads nowhere
// else (CVE-2018-15664), and no library or program of the container is loaded
// (CVE-2019-14271).
//
//	dir     := OpenDir(path)                  a directory of the host, as a volume is
//	live    := OpenLive(pid)                  the root that a process sees, with its mounts
//	stopped := OpenDetached(rootfs, mounts, write)
//	                                        assembled in a mount namespace of its own, seen by nobody
//	Root.Stat, Root.ReadArchive, Root.WriteArchive, Root.Close
//
//	layer := ParseOverlay(rootfs)             works on the directories, alive or not
//	Layer.Changes, Layer.Diff
package rootfs

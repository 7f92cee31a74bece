// Package diskquota bounds and measures what directories take on disk.
//
// Bounds are the project quotas of ext4 and xfs: a directory is of a project,
// what is made in it is of the same, and the kernel refuses (EDQUOT) what would
// take a project over its limit. Where the file system has none, Measure is all
// there is.
package diskquota

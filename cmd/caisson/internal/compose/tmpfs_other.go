//go:build !linux

package compose

import "io/fs"

// Only Linux has a tmpfs.

func tmpfsDirs() []string { return nil }

func onTmpfs(string) bool { return false }

func owned(fs.FileInfo) bool { return false }

package copy

import "io/fs"

// fileID tells whether two names are of one file.
type fileID struct{}

func multiple(fs.FileInfo) (fileID, bool) { return fileID{}, false }

// portableMode makes files executable, as Docker's client does: Windows does not
// tell which ones are.
func portableMode(mode int64, _ fs.FileInfo) int64 { return mode | 0o111 }

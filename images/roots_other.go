//go:build !linux

package images

import "os"

// overlayOptions and copyRootOwner belong to Linux's overlay.
func overlayOptions() []string { return nil }

func copyRootOwner(string, string) error { return nil }

func removeRoot(dir string) error { return os.RemoveAll(dir) }

//go:build linux

// Command filecheck tells what a directory's file system does with files: see
// package sharetest, which does it all.
package main

import "github.com/caisson-engine/caisson/vmshim/share/sharetest"

func main() { sharetest.Child() }

// Package testimage makes images for tests out of Debian packages, with
// Debian's tools, and serves them from Debian's registry on the loopback.
package testimage

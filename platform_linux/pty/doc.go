// Package pty opens pseudo terminals by descriptor, without trusting any name
// below a /dev that somebody else filled, and sets their size.
package pty

// Package volmount mounts what volumes are made of on the host, reads and fills
// them. Mounts are found by their directory alone, so that whoever made one may
// be killed: another takes it over or undoes it.
package volmount

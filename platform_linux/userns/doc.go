// Package userns makes mounts whose files' owners are mapped into a user
// namespace, so that an unchanged image serves containers with and without one.
package userns

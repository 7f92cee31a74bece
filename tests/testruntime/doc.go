// Package testruntime provides the OCI runtimes and clients that the tests drive.
package testruntime

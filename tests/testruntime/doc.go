// Package testruntime provides the OCI runtimes that the tests drive.
package testruntime

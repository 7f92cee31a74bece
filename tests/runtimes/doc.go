// Package runtimes runs the engine with OCI runtimes that its policy declares.
package runtimes

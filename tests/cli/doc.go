// Package cli runs one table of scenarios with caisson and with the unmodified
// docker client against a real engine.
package cli

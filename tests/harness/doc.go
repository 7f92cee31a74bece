// Package harness runs a private engine for a test, drives it with the real
// clients, and checks afterwards that it left nothing on the host.
package harness

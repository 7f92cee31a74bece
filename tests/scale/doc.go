// Package scale runs many containers, at once and one after another, and checks
// that nothing of them stays.
package scale

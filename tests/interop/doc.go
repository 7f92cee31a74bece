// Package interop proves that what the world already has works with the engine:
// Docker's clients old and new, its Python library, its registry and archives,
// and images of Debian that fetch, compile and serve.
package interop

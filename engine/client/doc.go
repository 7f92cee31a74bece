// Package client speaks the Docker Engine API to a Caisson engine, or to any
// other engine that serves it, with as little code and start-up time as that
// needs: a command line pays for every package initialiser and every goroutine.
//
// # Life of a request
//
// A Client holds no connection until it is asked for something. A request takes
// an idle connection or dials one, writes itself in one go and reads the answer
// from the same goroutine; a connection whose answer was read to its end is kept
// for the next request. Begin and Pending.Response separate the two halves, so
// that a caller can have several requests travelling at once without
// goroutines: `run` sends attach and wait together before it sends start.
//
// # Versions
//
// Requests carry the newest version this package knows. No ping comes first: an
// engine that is too old for it answers 400 and names its own version, which the
// Client then uses for this request and all that follow. Only requests whose
// body cannot be sent twice ask for the version beforehand.
//
// # Errors
//
// What the engine answers becomes an *Error that carries the engine's message
// and a kind of containerd/errdefs. An engine that cannot be reached becomes a
// *ConnectError whose text says what to do about it.
//
// # Types
//
// The package has its own wire types. They are a subset of Docker's, and lenient
// about what older engines leave out: the command line shows an inspect answer as
// the engine sent it and never needs all of it.
package client

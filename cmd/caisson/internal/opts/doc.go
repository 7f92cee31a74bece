// Package opts turns the flags of run and create into the request that the
// engine gets, the way Docker's command line does: a flag that this engine does
// not support is still sent, and it is the engine that refuses it.
//
// Flags checks each value as it is given; Request puts them together and checks
// what depends on several. Nothing here talks to an engine.
package opts

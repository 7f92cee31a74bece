// Package compose runs Compose projects on an engine, unmodified, with Docker's
// own tool and with ours.
package compose

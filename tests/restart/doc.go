// Package restart kills the engine's own processes with -9 and checks that no
// container, log line or exit code is lost.
package restart

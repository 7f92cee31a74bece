// Package logs writes and reads container logs. Backends write, so that no line
// is lost while the engine is down; the engine reads. A log driver with files is
// a directory of bounded, rotated files that any number of readers may follow.
package logs

import "time"

// Stream names, as the json-file format has them.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// Record is one log record: a line with its newline, or part of a line that was
// longer than 16 KiB, without.
type Record struct {
	Time   time.Time
	Stream string // Stdout or Stderr
	Line   []byte
	Attrs  map[string]string // labels and env chosen by log options
}

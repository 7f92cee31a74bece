// Package when reads points in time the way --since and --until take them.
package when

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// layouts are the forms of a date, from the most to the least exact.
var layouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00",
	"2006-01-02T15:04", "2006-01-02T15Z07:00", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02",
}

// Parse turns a duration before now, a date or seconds since 1970 into the
// API's form, seconds and nanoseconds since 1970. "" stays "". A date without a
// zone is local.
func Parse(s string, now time.Time) (string, error) {
	if s == "" {
		return "", nil
	}
	if isUnix(s) {
		return s, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return Format(now.Add(-d)), nil
	}
	for _, l := range layouts {
		if t, err := time.ParseInLocation(l, s, time.Local); err == nil {
			return Format(t), nil
		}
	}
	return "", fmt.Errorf("invalid time %q: use a duration (42m), a date (2013-01-02T13:23:37Z) or seconds since 1970: %w", s, errdefs.ErrInvalidArgument)
}

func isUnix(s string) bool {
	sec, nano, ok := strings.Cut(s, ".")
	if _, err := strconv.ParseInt(sec, 10, 64); err != nil {
		return false
	}
	if !ok {
		return true
	}
	_, err := strconv.ParseUint(nano, 10, 64)
	return err == nil
}

// Format is the API's form of t.
func Format(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }

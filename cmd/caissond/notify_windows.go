package main

import "time"

// notify has nobody to tell on Windows.
func notify(...string) {}

func watchdogInterval() time.Duration { return 0 }

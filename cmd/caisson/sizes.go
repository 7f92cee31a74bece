package main

import (
	"strconv"

	"github.com/docker/go-units"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// sizeOrNA shows a size that engines send as -1 when they did not count.
func sizeOrNA(n int64) string {
	if n < 0 {
		return "N/A"
	}
	return units.HumanSizeWithPrecision(float64(n), 3)
}

func countOrNA(n int64) string {
	if n < 0 {
		return "N/A"
	}
	return itoa(n)
}

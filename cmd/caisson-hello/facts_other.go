//go:build !linux

package main

import "os"

func platformFacts() []fact {
	return []fact{
		{"user", os.Getenv("USERNAME")},
		{"processors", os.Getenv("NUMBER_OF_PROCESSORS")},
	}
}

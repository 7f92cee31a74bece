//go:build linux && !amd64

package vmm

import "errors"

func installFilter(*instructions) error {
	return errors.New("this kind of processor is not supported yet")
}

// Guard is for the process that reads what a guest says.
func Guard() error { return errors.New("this kind of processor is not supported yet") }

package vmm

import "fmt"

// checkFloor is filled in below.
func checkFloor(v [3]int) error {
	if v[0] < 7 {
		return fmt.Errorf("version %v is too old", v)
	}
	return nil
}

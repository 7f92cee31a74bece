package vmm

import "testing"

func TestFloor(t *testing.T) {
	for version, ok := range map[[3]int]bool{
		{6, 2, 0}: false, {7, 0, 0}: false, {7, 2, 10}: false, {7, 2, 11}: true, {7, 2, 22}: true,
		{8, 0, 5}: false, {8, 1, 0}: false, {8, 2, 2}: false, {8, 2, 3}: true,
		{9, 0, 0}: true, {9, 2, 1}: true, {10, 0, 0}: true,
	} {
		if err := checkFloor(version); (err == nil) != ok {
			t.Errorf("%v: %v", version, err)
		}
	}
}

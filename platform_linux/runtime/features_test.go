//go:build linux

package runtime

import "testing"

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"6.15.0": true, "6.15": true, "6.14.9-amd64": false, "6.1.0-37-amd64": false, "7.0.0-rc1": true,
		"6.18.44-fc-v657": true, "5.99": false, "6.15-rc1": true, "": false, "6": false,
	} {
		if got := atLeast(release, 6, 15); got != want {
			t.Errorf("%s: %v", release, got)
		}
	}
}

func TestMissing(t *testing.T) {
	if got := len((Features{}).Missing()); got != len(consequences) {
		t.Errorf("%d sentences for a kernel without anything, want %d", got, len(consequences))
	}
	t.Logf("here: %q", ProbeFeatures().Missing())
}

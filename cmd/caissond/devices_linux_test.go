package main

import (
	"os"
	"testing"

	"github.com/containerd/errdefs"
)

func TestDevices(t *testing.T) {
	d, err := devices{}.Resolve("/dev/null", "/dev/nothing")
	if err != nil || len(d) != 1 || d[0].Path != "/dev/nothing" || d[0].Type != "c" || d[0].Major != 1 || d[0].Minor != 3 {
		t.Errorf("/dev/null is %+v, %v", d, err)
	}
	all, err := devices{}.All()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, d := range all {
		seen[d.Path] = true
	}
	if !seen["/dev/null"] || seen["/dev/pts/ptmx"] || seen["/dev/console"] {
		t.Errorf("all devices are %v", all)
	}
	if _, err := (devices{}).Resolve("/no/such", "/x"); !errdefs.IsNotFound(err) {
		t.Errorf("missing: %v", err)
	}
	for _, path := range []string{t.TempDir(), os.Args[0]} {
		if _, err := (devices{}).Resolve(path, "/x"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

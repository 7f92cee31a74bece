package kit

import (
	"os"
	"path/filepath"
	"testing"
)

func TestForgetEarlierBoot(t *testing.T) {
	dir := t.TempDir()
	events, other := filepath.Join(dir, "events"), filepath.Join(dir, "backend.log")
	for _, c := range []struct {
		boot string // "" leaves what is there
		kept bool
	}{{boot: "another\n"}, {kept: true}, {boot: "third\n"}} {
		if c.boot != "" {
			if err := os.WriteFile(filepath.Join(dir, "boot"), []byte(c.boot), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []string{events, other} {
			if err := os.WriteFile(f, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := ForgetEarlierBoot(dir, "events"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(events); (err == nil) != c.kept {
			t.Errorf("boot %q: events: %v, want kept %v", c.boot, err, c.kept)
		}
		if _, err := os.Stat(other); err != nil {
			t.Errorf("a file of somebody else: %v", err)
		}
	}
}

//go:build linux

package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// BenchmarkTrue is one container from Create to its end, and BenchmarkRunc the
// same program under runc, to be compared within one run.
func BenchmarkTrue(b *testing.B) {
	g := newRig(b)
	root := busybox(b)
	for i := 0; b.Loop(); i++ {
		p, err := g.r.Create(b.Context(), CreateOptions{Key: fmt.Sprintf("b%d", i), Spec: ordinary(root, "/bin/true")})
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		<-p.Done()
		p.Release()
	}
}

func BenchmarkExec(b *testing.B) {
	g := newRig(b)
	root := busybox(b)
	c, err := g.r.Create(b.Context(), CreateOptions{Key: "c", Spec: ordinary(root, "/bin/sleep", "1000")})
	if err == nil {
		err = c.Start(b.Context())
	}
	if err != nil {
		b.Fatal(err)
	}
	process := ordinary(root, "/bin/true").Process
	for i := 0; b.Loop(); i++ {
		p, err := g.r.Exec(b.Context(), ExecOptions{Key: fmt.Sprintf("c/%d", i), Container: c, Process: process})
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		<-p.Done()
		p.Release()
	}
}

func BenchmarkRunc(b *testing.B) {
	needsRoot(b)
	runc, err := exec.LookPath("runc")
	if err != nil {
		b.Skip("needs runc to compare with")
	}
	bundle := b.TempDir()
	data, err := json.Marshal(ordinary(busybox(b), "/bin/true"))
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		b.Fatal(err)
	}
	root := b.TempDir()
	for i := 0; b.Loop(); i++ {
		if out, err := exec.Command(runc, "--root", root, "run", "-b", bundle, fmt.Sprintf("bench%d-%d", os.Getpid(), i)).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}

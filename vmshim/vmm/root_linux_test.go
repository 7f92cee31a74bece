package vmm

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The root is made once, found again, and made anew when a part changed or it was
// taken away; runs of old ones are not disturbed.
func TestRoot(t *testing.T) {
	q, _ := setUp(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "qemu")
	if err := copyFile(program, q.opts.Binary, 0o755); err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	first, err := prepareRoot(program, filepath.Join(dir, "roots"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("made in %v", time.Since(at))
	at = time.Now()
	again, err := prepareRoot(program, filepath.Join(dir, "roots"))
	if err != nil || again != first {
		t.Errorf("%v, %v; want %v", again, err, first)
	}
	t.Logf("found in %v", time.Since(at))

	if st, err := os.Stat(filepath.Join(first.Dir, inProgram)); err != nil || st.Mode().Perm() != 0o711 {
		t.Errorf("the program: %v, %v; others must not read it", st, err)
	}
	when := time.Unix(1, 0)
	if err := os.Chtimes(program, when, when); err != nil {
		t.Fatal(err)
	}
	second, err := prepareRoot(program, filepath.Join(dir, "roots"))
	if err != nil || second.ID == first.ID || !isDir(first.Dir) || !isDir(second.Dir) {
		t.Errorf("after a change: %v, %v; before %v", second, err, first)
	}
	if err := os.RemoveAll(second.Dir); err != nil {
		t.Fatal(err)
	}
	if third, err := prepareRoot(program, filepath.Join(dir, "roots")); err != nil || third != second || !isDir(third.Dir) {
		t.Errorf("after its loss: %v, %v; want %v", third, err, second)
	}
	if err := os.Chtimes(first.Dir, when, when); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(program, when.Add(1), when.Add(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := prepareRoot(program, filepath.Join(dir, "roots")); err != nil || isDir(first.Dir) || !isDir(second.Dir) {
		t.Errorf("%v; the old root is there: %v, the recent one: %v", err, isDir(first.Dir), isDir(second.Dir))
	}
	if _, err := prepareRoot(filepath.Join(dir, "nonesuch"), dir); err == nil {
		t.Error("made for a program that is not there")
	}
}

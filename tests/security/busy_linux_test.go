package security

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/caisson-engine/caisson/tests/harness"
	"github.com/caisson-engine/caisson/tests/testimage"
)

// While the old root still lay on the new one, ".." of the root led onto the
// host's: a mount whose target is a link out of the root then made its file
// there (CVE-2021-30465 by another way). It took a busy machine to meet that
// moment, so many containers start at once.
func TestNoMountLeavesTheRootOfABusyMachine(t *testing.T) {
	e := harness.Start(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "harmless"), []byte("harmless"), 0o644); err != nil {
		t.Fatal(err)
	}
	e.Load(testimage.Busybox(t, testimage.Config{Ref: "busy:latest"}, testimage.File{Name: "data", Link: "/../../../../../../../../tmp"}))
	mark := filepath.Base(dir) + filepath.Base(filepath.Dir(dir))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 6 {
				target := fmt.Sprintf("%s-%d-%d", mark, i, j)
				r := e.Caisson("run", "--rm", "--network", "none", "-v", dir+"/harmless:/data/"+target, "busy", "cat", "/tmp/"+target)
				if r.Stdout != "harmless" {
					t.Errorf("%s", r)
				}
			}
		})
	}
	wg.Wait()
	made, err := filepath.Glob("/tmp/" + mark + "-*")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range made {
		t.Errorf("%s was made on the host", m)
		_ = os.Remove(m)
	}
}

package testimage

import (
	"os/exec"
	"strings"
	"testing"
)

// What this package makes, Debian's own tools can read.
func TestImagesAreReadable(t *testing.T) {
	reg := StartRegistry(t)
	for name, archive := range map[string]string{"busybox": Busybox(t, Config{}), "debian-dev": Debian(t)} {
		ref := reg.Addr + "/" + name + ":latest"
		Push(t, archive, ref)
		out, err := exec.Command("skopeo", "inspect", "--tls-verify=false", "docker://"+ref).CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"Os": "linux"`) {
			t.Errorf("%s: %v\n%s", ref, err, out)
		}
	}
}

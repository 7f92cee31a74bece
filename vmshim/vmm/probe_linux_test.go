package vmm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The probe's guest gets to its end where guests can run at all, and one that does
// not is noticed.
func TestProbeGuest(t *testing.T) {
	q, shape := setUp(t)
	probe := Shape{Accel: TCG, Flavour: OwnKernel, Kernel: shape.Kernel, Memory: 128 << 20, CPUs: 1}
	if err := q.bootProbe(t.Context(), probe, ProbeOptions{Jail: testJail(), Timeout: time.Minute}); err != nil {
		t.Errorf("under emulation, with time enough: %v", err)
	}
	if lab.debianKernel != "" {
		debian := probe
		debian.Flavour, debian.Kernel = DebianKernel, lab.debianKernel
		if err := q.bootProbe(t.Context(), debian, ProbeOptions{Jail: testJail(), Timeout: time.Minute}); err != nil {
			t.Errorf("Debian's kernel: %v", err)
		}
	}
	// An init that waits for ever stands for a guest that gets nowhere.
	probe.Initrd = shape.Initrd
	err := q.bootProbe(t.Context(), probe, ProbeOptions{Jail: testJail(), Timeout: 300 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "of processor time") {
		t.Errorf("a guest without end: %v", err)
	}
}

func TestProbe(t *testing.T) {
	q, shape := setUp(t)
	o := ProbeOptions{Guest: Guest{Kernel: shape.Kernel, Flavour: OwnKernel}, Jail: testJail(), Cache: filepath.Join(t.TempDir(), "probe")}
	at := time.Now()
	accel, why := q.Probe(t.Context(), o)
	t.Logf("%s after %v: %s", accel, time.Since(at), why)
	if accel != KVM && accel != TCG || why == "" {
		t.Fatalf("%q, %q", accel, why)
	}
	if kvmAnswers() != nil {
		return // nothing was probed, nothing is remembered
	}
	// What is remembered is believed, while the parts and the boot are the same.
	data, err := os.ReadFile(o.Cache)
	if err != nil {
		t.Fatal(err)
	}
	var r probed
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	const marked = "said by the cache"
	r.Reason = marked
	remember(o.Cache, r)
	if again, words := q.Probe(t.Context(), o); again != accel || words != marked {
		t.Errorf("the second time: %s, %s", again, words)
	}
	r.Key = strings.Replace(r.Key, bootID(), "another-boot", 1)
	remember(o.Cache, r)
	if again, words := q.Probe(t.Context(), o); again != accel || words == marked {
		t.Errorf("after another boot: %s, %s", again, words)
	}
}

package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ProbeOptions says what a probe boots and where it remembers the answer.
type ProbeOptions struct {
	Guest   Guest // its kernel alone is booted
	Jail    Jail
	Cache   string        // a file; empty remembers nothing
	Timeout time.Duration // of the processor; zero is DefaultProbeTime
}

// DefaultProbeTime is how much of a processor's time a guest may take to boot its
// kernel. With hardware behind it that takes a tenth of this; without, a hundred
// times as much. Time on the clock says nothing on a host that is busy, and an
// answer of no would hold until it boots; there is a bound to that too, though.
const (
	DefaultProbeTime = 2 * time.Second
	probeWall        = 15 // times as much on the clock
)

// Probe decides between KVM and TCG, and says why. It does not ask the host what
// it can do, since hosts exist whose /dev/kvm opens, answers every question right,
// makes machines, and then runs their instructions one by one in software. It
// boots a kernel in the very jail that machines get, and looks whether it gets to
// its end in time. The answer holds until the host boots or a part changes.
func (q *QEMU) Probe(ctx context.Context, o ProbeOptions) (Accel, string) {
	if err := kvmAnswers(); err != nil {
		return TCG, err.Error()
	}
	shape := Shape{Accel: KVM, Flavour: o.Guest.Flavour, Kernel: o.Guest.Kernel, Memory: 128 << 20, CPUs: 1}
	key, err := q.Key(shape)
	if err != nil {
		return TCG, err.Error()
	}
	key += " " + bootID()
	if r, ok := recall(o.Cache, key); ok {
		return r.Accel, r.Reason
	}
	r := probed{Key: key, Accel: KVM, Reason: "a probe guest ran through it"}
	if err := q.bootProbe(ctx, shape, o); err != nil {
		r.Accel, r.Reason = TCG, "/dev/kvm is there but no good: "+oneLine(err.Error(), 300)
		if ctx.Err() != nil {
			return r.Accel, r.Reason // not the host's fault
		}
	}
	remember(o.Cache, r)
	return r.Accel, r.Reason
}

// kvmAnswers is the part that costs nothing.
func kvmAnswers() error {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("no hardware virtualisation: /dev/kvm: %w", err)
	}
	defer unix.Close(fd)
	const getVersion, version = 0xae00, 12
	got, err := unix.IoctlRetInt(fd, getVersion)
	if err != nil || got != version {
		return fmt.Errorf("/dev/kvm speaks version %d, not %d: %w", got, version, err)
	}
	return nil
}

// bootProbe boots the kernel without anything to run. It ends by itself, with a
// panic for want of an init: that it gets there is the proof.
func (q *QEMU) bootProbe(ctx context.Context, shape Shape, o ProbeOptions) error {
	if o.Timeout == 0 {
		o.Timeout = DefaultProbeTime
	}
	timeout, cancel := context.WithTimeout(ctx, probeWall*o.Timeout)
	defer cancel()
	// The probe guest would die with this thread, if another user of it ended it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l, err := q.Launch(Config{Shape: shape, Jail: o.Jail})
	if err != nil {
		return err
	}
	m, err := q.Attach(timeout, l)
	if err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-m.Done():
			running = false
		case <-timeout.Done():
			_ = m.Kill()
			return fmt.Errorf("a probe guest did not boot through it within %v on the clock", probeWall*o.Timeout)
		case <-tick.C:
			if processorTime(m.PID()) > o.Timeout {
				_ = m.Kill()
				return fmt.Errorf("a probe guest did not boot through it within %v of processor time", o.Timeout)
			}
		}
	}
	var exit *Exit
	if errors.As(m.Err(), &exit) {
		said := exit.Reason == GuestPanic && strings.Contains(exit.Detail, "Unable to mount root fs")
		// Debian's kernel has its console in a module, and ends without a word.
		mute := exit.Reason == GuestShutdown && shape.Flavour == DebianKernel
		if said || mute {
			return nil
		}
	}
	return fmt.Errorf("a probe guest ended otherwise than it should: %w", m.Err())
}

// processorTime is what a process has used, with all its threads; zero if it is
// gone.
func processorTime(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 everywhere
	return time.Duration(user+system) * tick
}

// probed is a remembered answer.
type probed struct {
	Key    string `json:"key"`
	Accel  Accel  `json:"accel"`
	Reason string `json:"reason"`
}

func recall(file, key string) (probed, bool) {
	var r probed
	data, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(data, &r) != nil {
		return r, false
	}
	return r, r.Key == key && (r.Accel == KVM || r.Accel == TCG)
}

// remember is best effort: the next probe is only slower.
func remember(file string, r probed) {
	if file == "" {
		return
	}
	data, err := json.Marshal(r)
	if err != nil {
		return
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".probe-")
	if err != nil {
		return
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if tmp.Close() == nil && err == nil {
		_ = os.Rename(tmp.Name(), file)
	}
}

func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

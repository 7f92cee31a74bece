package vmm

import (
	"encoding/json"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestBoot(t *testing.T) {
	q, shape := setUp(t)
	at := time.Now()
	m := start(t, q, Config{Shape: shape, Jail: testJail()})
	newAgent(m).must(t, "pong 1", "ping 1")
	t.Logf("%s: cold boot to the first answer: %v", q.Name(), time.Since(at))
}

// Debian's kernel boots, finds devices in the same order, and can be cloned too.
func TestDebianKernel(t *testing.T) {
	q, shape := setUp(t)
	if lab.debianKernel == "" {
		t.Skip("Debian's kernel is not there: make guest-debian gets it")
	}
	shape.Flavour, shape.Kernel, shape.Initrd = DebianKernel, lab.debianKernel, lab.debianInitrd
	m := start(t, q, Config{Shape: shape, Template: makeTemplate(t, q, shape), Jail: testJail()})
	a := newAgent(m)
	for i, text := range []string{"first", "second", "third", "fourth"} {
		f := image(t, 1<<20, text)
		if shape.Disks[i].ReadOnly {
			f = reopen(t, f)
		}
		if err := m.SetDisk(within(t, time.Minute), i, f); err != nil {
			t.Fatal(err)
		}
		a.must(t, text, "read vd%c 0", 'a'+i)
	}
	a.must(t, "52:54:00:00:00:01", "cat /sys/class/net/eth0/address")
	a.must(t, "52:54:00:00:00:02", "cat /sys/class/net/eth1/address")
	a.must(t, "ok", "sleep 20")
}

// Processors and memory are what was asked for, in clones too.
func TestSize(t *testing.T) {
	q, shape := setUp(t)
	shape.CPUs, shape.Memory = 2, 1<<30
	m := start(t, q, Config{Shape: shape, Template: makeTemplate(t, q, shape), Jail: testJail()})
	a := newAgent(m)
	a.must(t, "0-1", "cat /sys/devices/system/cpu/online")
	a.must(t, "ok", "touch 700")
	a.must(t, "ok", "sleep 20")
}

// What was launched can be attached to by what its description says, which is how
// it gets through an exec.
func TestHandover(t *testing.T) {
	q, shape := setUp(t)
	l, err := q.Launch(Config{Shape: shape, Jail: testJail()})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(l.Handover(func(f *os.File) int {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range l.Files() {
		f.Close()
	}
	var h Handover
	if err := json.Unmarshal(data, &h); err != nil {
		t.Fatal(err)
	}
	m, err := Attach(within(t, time.Minute), Receive(h))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	newAgent(m).must(t, "pong", "ping")
}

// A host that is so busy that a machine runs a tenth of the time boots it, too. Its
// timer then ticks much less than its clock goes on.
func TestBootStarved(t *testing.T) {
	q, shape := setUp(t)
	m := start(t, q, Config{Shape: shape, Jail: testJail()})
	answered := make(chan error, 1)
	go func() {
		_, err := newAgent(m).ask("ping")
		answered <- err
	}()
	for {
		_ = syscall.Kill(m.PID(), syscall.SIGSTOP)
		time.Sleep(45 * time.Millisecond)
		_ = syscall.Kill(m.PID(), syscall.SIGCONT)
		select {
		case err := <-answered:
			if err != nil {
				t.Errorf("%v: %v", err, m.Err())
			}
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

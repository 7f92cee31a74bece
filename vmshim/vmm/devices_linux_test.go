package vmm

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// image makes a file of a size with text at its start.
func image(t testing.TB, size int64, text string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func reopen(t testing.TB, f *os.File) *os.File {
	t.Helper()
	r, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// Disks come into a clone while it runs, at their own size, and only the writable
// slots can be written to.
func TestDisks(t *testing.T) {
	q, shape := setUp(t)
	for name, c := range map[string]Config{
		"cold":  {Shape: shape, Jail: testJail()},
		"clone": {Shape: shape, Jail: testJail(), Template: makeTemplate(t, q, shape)},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t, q, c)
			a := newAgent(m)
			a.must(t, strconv.Itoa(placeholderSize/512), "size vda")
			files := []*os.File{
				image(t, 8<<20, "the image"), image(t, 64<<20, "the scratch"),
				image(t, 1<<20, "volume one"), image(t, 2<<20, "volume two"),
			}
			files[0] = reopen(t, files[0])
			for i, f := range files {
				at := time.Now()
				if err := m.SetDisk(within(t, time.Minute), i, f); err != nil {
					t.Fatal(err)
				}
				took := time.Since(at)
				st, err := f.Stat()
				if err != nil {
					t.Fatal(err)
				}
				disk := "vd" + string(rune('a'+i))
				want := strconv.FormatInt(st.Size()/512, 10)
				if shape.Disks[i].ReadOnly {
					want = strconv.Itoa(placeholderSize / 512)
				}
				for n := 0; ; n++ {
					if got, err := a.ask("size %s", disk); err != nil || n > 1000 {
						t.Fatalf("%s: size %q, %v; want %s", disk, got, err, want)
					} else if got == want {
						break
					}
				}
				t.Logf("%s: in after %v, seen after %v", disk, took, time.Since(at))
			}
			for i, text := range []string{"the image", "the scratch", "volume one", "volume two"} {
				a.must(t, text, "read vd%c 0", 'a'+i)
			}
			a.must(t, "error: read /dev/vda: input/output error", "read vda 0x10000000")
			a.must(t, "1", "ro vda")
			a.must(t, "0", "ro vdb")
			if got, _ := a.ask("write vda 0 x"); got == "ok" {
				t.Error("the guest wrote to the image")
			}
			a.must(t, "ok", "write vdb 4096 hello")
			got := make([]byte, 5)
			if _, err := files[1].ReadAt(got, 4096); err != nil || string(got) != "hello" {
				t.Errorf("in the scratch file: %q, %v", got, err)
			}
			if err := m.SetDisk(within(t, time.Minute), 0, files[0]); err == nil {
				t.Error("a slot took a second image")
			}
			if err := m.SetDisk(within(t, time.Minute), 4, files[0]); err == nil {
				t.Error("a slot that is not there took an image")
			}
			if err := m.ClearDisk(within(t, time.Minute), 1); err != nil {
				t.Fatal(err)
			}
			if got, _ := a.ask("read vdb 0"); got == "the scratch" {
				t.Error("the image is still there after it was taken out")
			}
			if err := m.ClearDisk(within(t, time.Minute), 1); err == nil {
				t.Error("an image was taken out twice")
			}
			if err := m.SetDisk(within(t, time.Minute), 1, image(t, 64<<20, "another")); err != nil {
				t.Fatal(err)
			}
			a.must(t, "another", "read vdb 0")
		})
	}
}

// in runs f in another network namespace.
func in(t testing.TB, ns string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		// Not unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		fd, err := unix.Open(ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			if err = unix.Setns(fd, unix.CLONE_NEWNET); err == nil {
				err = f()
			}
			unix.Close(fd)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func address(name, cidr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// serve answers each connection with text.
func serve(t testing.TB, ns, addr, text string) {
	in(t, ns, func() error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, text+"\n")
				c.Close()
			}
		}()
		return nil
	})
}

// A clone's interfaces lead nowhere until a tap is moved to where it belongs,
// which can be at any time; or they are given at the start.
func TestNetwork(t *testing.T) {
	q, shape := setUp(t)
	tmpl := makeTemplate(t, q, shape)

	// The network that the machines are to join.
	var world *os.File
	done := make(chan error)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			world, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
		<-stop
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	defer world.Close()
	worldPath := fmt.Sprintf("/proc/self/fd/%d", world.Fd())

	// One brings its tap.
	var given *os.File
	in(t, worldPath, func() error {
		fd, err := openTap("given")
		given = os.NewFile(uintptr(fd), "tap")
		return err
	})
	m := start(t, q, Config{Shape: shape, Template: tmpl, Jail: testJail(), Taps: []*os.File{given}})
	given.Close()
	in(t, worldPath, func() error { return address("given", "10.99.1.1/24") })
	serve(t, worldPath, "10.99.1.1:80", "hello one")
	a := newAgent(m)
	a.must(t, "ok", "net eth0 10.99.1.2")
	a.must(t, "hello one", "dial 10.99.1.1:80")

	// The other's is moved while it runs, as with a machine from a warm pool.
	pooled := start(t, q, Config{Shape: shape, Template: tmpl, Jail: testJail()})
	b := newAgent(pooled)
	b.must(t, "pong", "ping")
	in(t, fmt.Sprintf("/proc/%d/ns/net", pooled.PID()), func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		var names []string
		for _, l := range links {
			names = append(names, l.Attrs().Name)
		}
		if len(names) != 3 {
			return fmt.Errorf("the monitor's namespace has %v, want lo and two taps", names)
		}
		tap, err := netlink.LinkByName(TapName(1))
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(tap, int(world.Fd()))
	})
	in(t, worldPath, func() error { return address(TapName(1), "10.99.2.1/24") })
	serve(t, worldPath, "10.99.2.1:80", "hello two")
	b.must(t, "ok", "net eth1 10.99.2.2")
	b.must(t, "hello two", "dial 10.99.2.1:80")
}

// Each port is a stream of its own, with its own flow control.
func TestPorts(t *testing.T) {
	q, shape := setUp(t)
	m := start(t, q, Config{Shape: shape, Jail: testJail()})
	a := newAgent(m)
	echo := m.Port("echo")
	sent := make([]byte, 8<<20)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(sent))
	at := time.Now()
	go func() { _, _ = echo.Write(sent) }()
	// The other port answers while this one is full.
	a.must(t, "pong", "ping")
	if _, err := io.ReadFull(echo, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("the echo differs: %v", err)
	}
	t.Logf("%d MiB there and back in %v", len(sent)>>20, time.Since(at))
	if m.Port("nonesuch") != nil {
		t.Error("a port that is not there")
	}
}

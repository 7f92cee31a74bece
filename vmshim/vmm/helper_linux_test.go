package vmm

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/vmshim/guestos"
)

// Arguments with which this program is something else than tests.
const (
	stageArg  = "__jail"
	parentArg = "__parent"
)

func init() {
	// A monitor dies with the thread that launched it.
	if len(os.Args) > 1 && os.Args[1] == parentArg {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == stageArg {
		RunStage()
	}
	if len(os.Args) > 1 && os.Args[1] == parentArg {
		parent()
	}
	code := m.Run()
	if lab.dir != "" {
		os.RemoveAll(lab.dir)
	}
	os.Exit(code)
}

// lab is what all tests share: QEMU, a kernel and an initramfs with testguest.
var lab struct {
	once   sync.Once
	dir    string
	qemu   *QEMU
	kernel string
	initrd string
	skip   string
	err    error

	debianKernel, debianInitrd string // empty if it is not there
}

func setUp(t testing.TB) (*QEMU, Shape) {
	t.Helper()
	lab.once.Do(func() { lab.skip, lab.err = makeLab() })
	if lab.skip != "" {
		t.Skip(lab.skip)
	}
	if lab.err != nil {
		t.Fatal(lab.err)
	}
	return lab.qemu, Shape{
		Accel: TCG, Flavour: OwnKernel, Kernel: lab.kernel, Initrd: lab.initrd,
		Memory: 128 << 20, CPUs: 1, Disks: []DiskSlot{{ReadOnly: true}, {}, {}, {}}, NICs: 2,
		Ports: []string{"agent", "echo"},
	}
}

func makeLab() (skip string, err error) {
	if os.Getuid() != 0 {
		return "starting a jailed monitor needs root", nil
	}
	if path, _ := exec.LookPath("qemu-system-x86_64"); path == "" {
		return "qemu-system-x86_64 is not installed", nil
	}
	lab.kernel, err = filepath.Abs("../../bin/guest/vmlinux")
	if err != nil {
		return "", err
	}
	if !exists(lab.kernel) {
		return "no guest kernel: make guest builds it", nil
	}
	// Not below the test's own directory: the monitor's uid must get to its root.
	if lab.dir, err = os.MkdirTemp("", "caisson-vmm-"); err != nil {
		return "", err
	}
	if err := os.Chmod(lab.dir, 0o711); err != nil {
		return "", err
	}
	init := filepath.Join(lab.dir, "testguest")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, "./testguest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("testguest: %w: %s", err, out)
	}
	lab.initrd = filepath.Join(lab.dir, "initrd")
	if err := guestos.Initramfs(lab.initrd, guestos.Programs{Init: init}); err != nil {
		return "", err
	}
	if err := debianGuest(init); err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	lab.qemu, err = NewQEMU(QEMUOptions{Dir: filepath.Join(lab.dir, "roots"), Stage: []string{self, stageArg}})
	return "", err
}

// debianGuest is the fallback kernel with the same init.
func debianGuest(init string) error {
	kernel, err := filepath.Abs("../../bin/guest/vmlinux-debian")
	if err != nil {
		return err
	}
	dir := filepath.Join(filepath.Dir(kernel), "modules-debian")
	if !exists(filepath.Join(dir, "load")) {
		return nil
	}
	list, err := os.ReadFile(filepath.Join(dir, "load"))
	if err != nil {
		return err
	}
	p := guestos.Programs{Init: init}
	for _, name := range strings.Fields(string(list)) {
		p.Module = append(p.Module, filepath.Join(dir, name))
	}
	lab.debianKernel, lab.debianInitrd = kernel, filepath.Join(lab.dir, "initrd-debian")
	return guestos.Initramfs(lab.debianInitrd, p)
}

// testJail has a uid that nothing else uses here.
func testJail() Jail { return Jail{UID: 231072, GID: 231072} }

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// launch is Launch on a thread that stays until the end of the test: a test's own
// thread may have ended by then, after it was in another network namespace, and its
// machines with it.
func launch(t testing.TB, q *QEMU, c Config) (l *Launched, err error) {
	t.Helper()
	launched, stop := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		l, err = q.Launch(c)
		close(launched)
		<-stop
	}()
	<-launched
	return l, err
}

// start launches and attaches, and kills at the end of the test.
func start(t testing.TB, q *QEMU, c Config) Machine {
	t.Helper()
	l, err := launch(t, q, c)
	if err != nil {
		t.Fatal(err)
	}
	m, err := q.Attach(within(t, time.Minute), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			said := m.Console()
			t.Logf("ended: %v", m.Err())
			t.Logf("console:\n%s", said[max(0, len(said)-1000):])
		}
	})
	return m
}

// agent speaks with testguest.
type agent struct {
	conn  net.Conn
	lines *bufio.Reader
}

func newAgent(m Machine) *agent {
	return &agent{m.Port("agent"), bufio.NewReader(m.Port("agent"))}
}

// ask sends one line and returns the answer.
func (a *agent) ask(format string, args ...any) (string, error) {
	_ = a.conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := fmt.Fprintf(a.conn, format+"\n", args...); err != nil {
		return "", err
	}
	line, err := a.lines.ReadString('\n')
	return strings.TrimSpace(line), err
}

func (a *agent) must(t testing.TB, want, format string, args ...any) {
	t.Helper()
	if got, err := a.ask(format, args...); err != nil || got != want {
		t.Fatalf(format+": %q, %v; want %q", append(args, got, err, want)...)
	}
}

func digest(t testing.TB, f *os.File) []byte {
	t.Helper()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, st.Size())); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)
}

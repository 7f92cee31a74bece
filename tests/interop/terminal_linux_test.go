package interop

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caisson-engine/caisson/platform_linux/pty"
)

// terminal is a client at a pseudo terminal.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	mu     sync.Mutex
	cond   sync.Cond
	out    bytes.Buffer // what was not expected yet
	all    bytes.Buffer
	eof    bool
}

// newTerminal starts a command on a terminal of 24 rows and 80 columns.
func newTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/pts/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := pty.Peer(int(master.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	slave := os.NewFile(uintptr(fd), "slave")
	defer slave.Close()
	if err := pty.SetSize(int(master.Fd()), 24, 80); err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, master: master, cmd: cmd}
	term.cond.L = &term.mu
	go term.read()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		master.Close()
	})
	return term
}

func (x *terminal) read() {
	buf := make([]byte, 4096)
	for {
		n, err := x.master.Read(buf)
		x.mu.Lock()
		x.out.Write(buf[:n])
		x.all.Write(buf[:n])
		x.eof = err != nil // EIO once the last program closed the slave
		x.cond.Broadcast()
		x.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// expect waits for a pattern in the output and consumes everything up to its end.
func (x *terminal) expect(pattern string) {
	x.t.Helper()
	re := regexp.MustCompile(pattern)
	late := time.AfterFunc(time.Minute, func() {
		x.mu.Lock()
		x.eof = true
		x.cond.Broadcast()
		x.mu.Unlock()
	})
	defer late.Stop()
	x.mu.Lock()
	defer x.mu.Unlock()
	for {
		if at := re.FindIndex(x.out.Bytes()); at != nil {
			x.out.Next(at[1])
			return
		}
		if x.eof {
			x.t.Fatalf("waited for %s in vain; the terminal shows:\n%s", pattern, x.all.String())
		}
		x.cond.Wait()
	}
}

// send types.
func (x *terminal) send(keys string) {
	x.t.Helper()
	if _, err := io.WriteString(x.master, keys); err != nil {
		x.t.Fatal(err)
	}
}

// exits waits for the end of the client.
func (x *terminal) exits(code int) {
	x.t.Helper()
	late := time.AfterFunc(time.Minute, func() { _ = x.cmd.Process.Kill() })
	defer late.Stop()
	_ = x.cmd.Wait()
	if got := x.cmd.ProcessState.ExitCode(); got != code {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.t.Errorf("exit code %d, should be %d; the terminal shows:\n%s", got, code, x.all.String())
	}
}

// shell reads lines as the terminal gives them; busybox's own line editor would
// ask the terminal for its cursor.
const shell = `echo ready; while read -r line; do eval "$line"; done`

// resize changes the size until the output shows that it arrived. The kernel
// tells the client with SIGWINCH, once; Docker's client begins to listen some time
// after its container has started.
func (x *terminal) resize(rows, cols uint32, pattern string) {
	x.t.Helper()
	if err := pty.SetSize(int(x.master.Fd()), rows, cols); err != nil {
		x.t.Fatal(err)
	}
	again, stop := time.NewTicker(100*time.Millisecond), make(chan struct{})
	defer again.Stop()
	defer close(stop)
	go func() {
		for {
			select {
			case <-again.C:
				_ = x.cmd.Process.Signal(syscall.SIGWINCH)
			case <-stop:
				return
			}
		}
	}()
	x.expect(pattern)
}

const ctrlPQ = "\x10\x11"

// A shell at a terminal: size, keys, detaching and coming back.
func TestTerminal(t *testing.T) {
	t.Parallel()
	e := busybox(t)
	each(t, e, func(t *testing.T, c client) {
		name := "term-" + c.name
		x := newTerminal(t, c.command("run", "-it", "--name", name, "--network", "none", "busybox", "sh", "-c", shell))
		defer c.run(t, "rm", "-f", name)
		x.expect(`ready`)
		x.send("until stty size 2>/dev/null | grep .; do :; done; tty; echo $TERM\n") // old clients tell the size late, and stty fails quietly until then
		x.expect(`24 80\r\n/dev/pts/0\r\nxterm`)
		x.send("until stty size | grep '50 132'; do :; done\n")
		x.resize(50, 132, `50 132\r\n`)
		x.send("trap 'echo inter''rupted' INT; cat\n")
		x.expect(`cat\r\n`)
		x.send("abc\n")
		x.expect(`abc\r\nabc\r\n`)
		x.send("\x03")
		x.expect(`interrupted`)
		x.send(ctrlPQ)
		x.exits(0)
		c.want(t, "^true true$", "inspect", "-f", "{{.State.Running}} {{.Config.Tty}}", name)

		x = newTerminal(t, c.command("attach", "--detach-keys", "ctrl-x,d", name))
		x.send("keys='\x10'; echo ba''ck ${#keys}\n") // ctrl-p is the program's now
		x.expect(`back 1\r\n`)
		x.send("\x18d")
		if code := wait(x); code != 0 && code != 1 { // Docker's attach exits with 1
			t.Errorf("detaching from attach: exit code %d", code)
		}

		y := newTerminal(t, c.command("exec", "-it", name, "sh", "-c", shell))
		y.expect(`ready`)
		y.send("until stty size 2>/dev/null | grep .; do :; done; tty\n")
		y.expect(`24 80\r\n/dev/pts/1`)
		y.send("exit 5\n")
		y.exits(5)

		x = newTerminal(t, c.command("attach", name))
		x.send("exit 3\n")
		x.exits(3)
		c.want(t, `^3$`, "wait", name)

		// A restart has a new terminal; its output is still in the log.
		x = newTerminal(t, c.command("start", "-ai", name))
		x.send("echo on''ce more; exit 4\n")
		x.expect(`once more`)
		x.exits(4)
		c.want(t, `(?s)back 1.*once more`, "logs", name)
	})
}

// wait is the exit code of a terminal's client.
func wait(x *terminal) int {
	late := time.AfterFunc(time.Minute, func() { _ = x.cmd.Process.Kill() })
	defer late.Stop()
	_ = x.cmd.Wait()
	return x.cmd.ProcessState.ExitCode()
}

// A client without a terminal is told so, and signals go to the container.
func TestWithoutTerminal(t *testing.T) {
	t.Parallel()
	e := busybox(t)
	each(t, e, func(t *testing.T, c client) {
		cmd := c.command("run", "-it", "--rm", "--network", "none", "busybox", "true")
		cmd.Stdin = strings.NewReader("")
		out, err := cmd.CombinedOutput()
		if err == nil || !regexp.MustCompile(`input device is not a TTY|stdin is not a terminal`).Match(out) {
			t.Errorf("-t without a terminal: %s, %v", out, err)
		}
		name := "sig-" + c.name
		x := newTerminal(t, c.command("run", "--name", name, "--network", "none", "busybox", "sh", "-c", "trap 'echo term; exit 6' TERM; echo ready; while :; do sleep 1 & wait $!; done"))
		defer c.run(t, "rm", "-f", name)
		x.expect("ready")
		if err := x.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		x.expect("term")
		x.exits(6)
	})
}

package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// machine is a running QEMU.
type machine struct {
	shape   Shape
	key     string
	proc    *os.Process
	qmp     *qmp
	ports   map[string]net.Conn
	console *tail
	stderr  *tail
	drained []<-chan struct{} // console and stderr read to their ends
	memory  *os.File          // of a savable machine

	mu    sync.Mutex
	disks map[int]bool // slots that have their image
	asked error        // why we ended it, if we did

	done chan struct{}
	err  error // why it ended; valid once done is closed
}

// attachTime is how long a boot's or a restore's conversation may take when the
// caller sets no limit.
const attachTime = 60 * time.Second

// Attach is the unprivileged half: see VMM.
func (q *QEMU) Attach(ctx context.Context, l *Launched) (Machine, error) {
	return Attach(ctx, l)
}

// Attach is QEMU.Attach for a process that has no QEMU: in a jail of its own
// there is none to find.
func Attach(ctx context.Context, l *Launched) (Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	m, err := adopt(l)
	if err != nil {
		return nil, err
	}
	if err := m.handshake(ctx, l.StateFD); err != nil {
		_ = m.Kill()
		// What the monitor said tells more than that it is gone.
		if words := oneLine(m.stderr.String(), 500); words != "" {
			err = fmt.Errorf("%w: %s", err, words)
		}
		return nil, fmt.Errorf("virtual machine: %w", err)
	}
	return m, nil
}

// adopt takes the process and the descriptors over.
func adopt(l *Launched) (*machine, error) {
	m := &machine{
		shape: l.Shape, key: l.Key, memory: l.Memory,
		ports: map[string]net.Conn{}, disks: map[int]bool{}, done: make(chan struct{}),
		console: &tail{most: ConsoleSize}, stderr: &tail{most: 4 << 10},
	}
	var err error
	if m.proc, err = os.FindProcess(l.PID); err != nil {
		return nil, err
	}
	connect := func(f *os.File) net.Conn {
		var c net.Conn
		if err == nil {
			c, err = net.FileConn(f)
		}
		f.Close()
		return c
	}
	monitor, console := connect(l.Monitor), connect(l.Console)
	for name, f := range l.Ports {
		m.ports[name] = connect(f)
	}
	if err != nil {
		_ = m.proc.Kill()
		_, _ = m.proc.Wait()
		return nil, err
	}
	m.qmp = newQMP(monitor.(*net.UnixConn))
	m.drained = append(m.drained, m.console.follow(console))
	if l.Stderr != nil {
		m.drained = append(m.drained, m.stderr.follow(l.Stderr))
	}
	go m.reap()
	return m, nil
}

// handshake brings the machine to where it runs.
func (m *machine) handshake(ctx context.Context, state int) error {
	if err := m.qmp.do(ctx, "qmp_capabilities", nil); err != nil {
		return err
	}
	if state == 0 {
		return nil
	}
	if err := m.migration(ctx); err != nil {
		return err
	}
	if err := m.qmp.do(ctx, "migrate-incoming", map[string]string{"uri": fmt.Sprintf("fd:%d", state)}); err != nil {
		return err
	}
	if err := m.qmp.wait(ctx, "MIGRATION", migrated); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	// It was saved stopped, and comes back so.
	return m.qmp.do(ctx, "cont", nil)
}

// migration chooses what every save and restore here is: memory stays where it
// is, only the devices' state travels, and an event tells the end.
func (m *machine) migration(ctx context.Context) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	err := m.qmp.do(ctx, "migrate-set-capabilities", map[string]any{
		"capabilities": []capability{{"x-ignore-shared", true}, {"events", true}},
	})
	return err
}

// migrated reads a MIGRATION event.
func migrated(data json.RawMessage) (bool, error) {
	var e struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return false, err
	}
	switch e.Status {
	case "completed":
		return true, nil
	case "failed", "cancelled":
		return false, errors.New("the monitor could not take the state")
	}
	return false, nil
}

func (m *machine) Port(name string) net.Conn { return m.ports[name] }

// SetDisk replaces what is below a slot's node, which the device does not notice
// but for the new size.
func (m *machine) SetDisk(ctx context.Context, slot int, image *os.File) error {
	if slot < 0 || slot >= len(m.shape.Disks) {
		return fmt.Errorf("vmm: there is no disk slot %d", slot)
	}
	m.mu.Lock()
	taken := m.disks[slot]
	m.disks[slot] = true
	m.mu.Unlock()
	if taken {
		return fmt.Errorf("vmm: disk slot %d has its image already", slot)
	}
	readOnly := m.shape.Disks[slot].ReadOnly
	set := fdSet(slot)
	if err := m.qmp.do(ctx, "add-fd", map[string]any{"fdset-id": set}, image); err != nil {
		return err
	}
	node := fmt.Sprintf("file%d", slot)
	// The format is always raw: what a guest writes can not make a later machine
	// read another file's name out of it. Locks would be the host file's, which all
	// machines of one image share.
	if err := m.qmp.do(ctx, "blockdev-add", map[string]any{
		"driver": "file", "node-name": node, "filename": fmt.Sprintf("/dev/fdset/%d", set),
		"read-only": readOnly, "locking": "off", "discard": "unmap",
	}); err != nil {
		return err
	}
	if err := m.qmp.do(ctx, "blockdev-reopen", map[string]any{"options": []any{map[string]any{
		"driver": "raw", "node-name": fmt.Sprintf("disk%d", slot), "read-only": readOnly, "discard": "unmap", "file": node,
	}}}); err != nil || readOnly {
		return err
	}
	// Nothing changes by this but that the device tells its guest of the new size,
	// which it does not when what is below it is replaced.
	st, err := image.Stat()
	if err != nil {
		return err
	}
	err = m.qmp.do(ctx, "block_resize", map[string]any{"node-name": fmt.Sprintf("disk%d", slot), "size": st.Size()})
	return err
}

// ClearDisk puts the placeholder back below a slot's node and closes the image.
func (m *machine) ClearDisk(ctx context.Context, slot int) error {
	m.mu.Lock()
	taken := m.disks[slot]
	m.mu.Unlock()
	if !taken {
		return fmt.Errorf("vmm: disk slot %d has no image", slot)
	}
	if err := m.qmp.do(ctx, "blockdev-reopen", map[string]any{"options": []any{map[string]any{
		"driver": "raw", "node-name": fmt.Sprintf("disk%d", slot), "read-only": m.shape.Disks[slot].ReadOnly, "discard": "unmap",
		"file": fmt.Sprintf("none%d", slot),
	}}}); err != nil {
		return err
	}
	if err := m.qmp.do(ctx, "blockdev-del", map[string]string{"node-name": fmt.Sprintf("file%d", slot)}); err != nil {
		return err
	}
	if err := m.qmp.do(ctx, "remove-fd", map[string]int{"fdset-id": fdSet(slot)}); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.disks, slot)
	m.mu.Unlock()
	return nil
}

// fdSet is the number of the set of descriptors that a slot's image is in.
func fdSet(slot int) int { return 100 + slot }

func (m *machine) Pause(ctx context.Context) error {
	return m.qmp.do(ctx, "stop", nil)
}

func (m *machine) Resume(ctx context.Context) error {
	return m.qmp.do(ctx, "cont", nil)
}

func (m *machine) Console() string { return m.console.String() }

func (m *machine) PID() int { return m.proc.Pid }

func (m *machine) Done() <-chan struct{} { return m.done }

func (m *machine) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// Kill needs no right but the same uid.
func (m *machine) Kill() error { return m.end(ErrKilled) }

func (m *machine) end(why error) error {
	m.mu.Lock()
	if m.asked == nil {
		m.asked = why
	}
	m.mu.Unlock()
	if err := m.proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the monitor: %w", err)
	}
	<-m.done
	return nil
}

// reap waits for the process, for its last words, and says why it ended.
func (m *machine) reap() {
	state, err := m.proc.Wait()
	<-m.qmp.gone
	for _, d := range m.drained {
		<-d
	}
	_ = m.qmp.conn.Close()
	m.mu.Lock()
	asked := m.asked
	m.mu.Unlock()
	if err != nil {
		m.err = &Exit{Reason: Failed, Detail: err.Error()}
	} else if status := state.Sys().(syscall.WaitStatus); asked != nil && status.Signaled() && status.Signal() == syscall.SIGKILL {
		m.err = asked
	} else {
		// Also when we were about to end it: it was faster.
		m.err = m.why(status)
	}
	close(m.done)
	if m.memory != nil && !errors.Is(m.err, ErrSaved) {
		m.memory.Close()
	}
}

// why reads what the dead left: its status, its last event, its console.
func (m *machine) why(status syscall.WaitStatus) error {
	if status.Signaled() {
		reason := Signalled
		if slices.Contains(faults, status.Signal()) {
			reason = Failed
		}
		return &Exit{Reason: reason, Signal: status.Signal(), Detail: lastLine(m.stderr.String())}
	}
	if _, ok := m.qmp.event("SHUTDOWN"); ok {
		if text, ok := panicMessage(m.console.String()); ok {
			return &Exit{Reason: GuestPanic, Detail: text}
		}
		return &Exit{Reason: GuestShutdown}
	}
	return &Exit{Reason: Failed, Detail: lastLine(m.stderr.String())}
}

// faults are signals that a process brings upon itself; nobody else can send them to
// the first process of a pid namespace. One that aborts there ends by the first of
// them: it can not send itself SIGABRT, and stumbles.
var faults = []syscall.Signal{
	syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGBUS, syscall.SIGILL, syscall.SIGFPE, syscall.SIGTRAP, syscall.SIGSYS,
}

// panicMessage finds what the kernel said when it gave up.
func panicMessage(console string) (string, bool) {
	const mark = "Kernel panic - not syncing: "
	i := strings.LastIndex(console, mark)
	if i < 0 {
		return "", false
	}
	line, _, _ := strings.Cut(console[i+len(mark):], "\n")
	return oneLine(line, 200), true
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return oneLine(s[strings.LastIndexByte(s, '\n')+1:], 300)
}

// Save makes the template: stop, let the monitor write its devices' state, end it
// so that nobody maps the memory any more, and seal both.
func (m *machine) Save(ctx context.Context) (_ *Template, err error) {
	if m.memory == nil {
		return nil, errors.New("vmm: this machine was not started savable")
	}
	m.mu.Lock()
	used := len(m.disks) > 0
	m.mu.Unlock()
	if used {
		return nil, errors.New("vmm: a machine with disks can not become a template")
	}
	if err := m.Pause(ctx); err != nil {
		return nil, err
	}
	state, err := memoryFile("state", 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			state.Close()
		}
	}()
	if err := m.qmp.do(ctx, "getfd", map[string]string{"fdname": "state"}, state); err != nil {
		return nil, err
	}
	if err := m.migration(ctx); err != nil {
		return nil, err
	}
	if err := m.qmp.do(ctx, "migrate", map[string]string{"uri": "fd:state"}); err != nil {
		return nil, err
	}
	if err := m.qmp.wait(ctx, "MIGRATION", migrated); err != nil {
		return nil, fmt.Errorf("save: %w", err)
	}
	if err := m.end(ErrSaved); err != nil {
		return nil, err
	}
	if !errors.Is(m.err, ErrSaved) {
		return nil, fmt.Errorf("save: %w", m.err)
	}
	if err := punchZeros(m.memory, m.shape.Memory); err != nil {
		return nil, err
	}
	for _, f := range []*os.File{m.memory, state} {
		if err := seal(ctx, f); err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
	}
	return &Template{Key: m.key, Memory: m.memory, State: state}, nil
}

// seal makes a memory file one that nobody can change any more. The kernel refuses
// while it still holds a page itself, which can last a moment longer than the process
// that wrote it.
func seal(ctx context.Context, f *os.File) error {
	const all = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	for {
		_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, all)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

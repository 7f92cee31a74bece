package vmm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// QEMUOptions is what NewQEMU needs to know.
type QEMUOptions struct {
	// Binary is QEMU's program; empty looks for qemu-system-x86_64 in PATH.
	Binary string
	// Dir takes the jails' common root; it is made if need be.
	Dir string
	// Stage is the command that ends in RunStage; the caller's own program with an
	// argument that tells it so.
	Stage []string
	// Known is what another process found out with Know, for the shapes of one key;
	// nil finds out. It saves a machine's start some 100 ms.
	Known *Known
}

// Know finds out what QEMUOptions.Known takes.
func (q *QEMU) Know(s Shape) (*Known, error) {
	key, err := q.Key(s)
	if err != nil {
		return nil, err
	}
	r, err := prepareRoot(q.opts.Binary, q.opts.Dir)
	if err != nil {
		return nil, err
	}
	return &Known{Version: q.version, Root: r.Dir, Key: key}, nil
}

// QEMU is QEMU's microvm machine.
type QEMU struct {
	opts    QEMUOptions
	version string

	mu     sync.Mutex
	hashes map[string]string // of kernels and initramfs, by stat
}

var _ VMM = (*QEMU)(nil)

// NewQEMU finds QEMU and refuses a version with known holes.
func NewQEMU(opts QEMUOptions) (*QEMU, error) {
	if k := opts.Known; k != nil {
		return &QEMU{opts: opts, version: k.Version, hashes: map[string]string{}}, nil
	}
	if opts.Binary == "" {
		path, err := exec.LookPath("qemu-system-x86_64")
		if err != nil {
			return nil, errors.New("qemu-system-x86_64 is not installed (Debian: qemu-system-x86)")
		}
		opts.Binary = path
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, opts.Binary, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", opts.Binary, err)
	}
	version, err := parseVersion(string(out))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", opts.Binary, err)
	}
	if err := checkFloor(version); err != nil {
		return nil, fmt.Errorf("%s: %w", opts.Binary, err)
	}
	return &QEMU{opts: opts, version: firstLine(out), hashes: map[string]string{}}, nil
}

func (q *QEMU) Name() string { return q.version }

// Key covers all that decides what is in a template, and all that a clone must
// share with it: with another processor model QEMU would not refuse the state but
// hang. The measured frequency is not in it: a clone is not told again.
func (q *QEMU) Key(s Shape) (string, error) {
	if err := s.Check(); err != nil {
		return "", err
	}
	r, err := prepareRoot(q.opts.Binary, q.opts.Dir)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, file := range []string{s.Kernel, s.Initrd} {
		if file == "" {
			continue
		}
		hash, err := q.hash(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, hash)
	}
	fmt.Fprintln(h, r.ID, q.version, s.Flavour, s.Cmdline, hostCPU())
	for _, arg := range hardware(s) {
		fmt.Fprintln(h, arg)
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

// hash is of a file's contents, remembered for as long as the file looks the same.
func (q *QEMU) hash(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	id := fmt.Sprint(path, st.Size(), st.ModTime().UnixNano())
	q.mu.Lock()
	defer q.mu.Unlock()
	if known := q.hashes[id]; known != "" {
		return known, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	q.hashes[id] = hex.EncodeToString(sum.Sum(nil))
	return q.hashes[id], nil
}

// hostCPU tells processors apart: what "max" and "host" are depends on it.
var hostCPU = sync.OnceValue(func() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	first, _, _ := strings.Cut(string(data), "\n\n")
	var kept []string
	for _, line := range strings.Split(first, "\n") {
		key, _, _ := strings.Cut(line, "\t")
		switch strings.TrimSpace(key) {
		case "vendor_id", "cpu family", "model", "stepping", "microcode", "flags":
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
})

// Launch is the privileged half: see VMM.
func (q *QEMU) Launch(c Config) (_ *Launched, err error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if c.Template != nil && c.Savable {
		return nil, errors.New("vmm: a clone can not become a template")
	}
	if len(c.Taps) > c.NICs {
		return nil, fmt.Errorf("vmm: %d taps for %d interfaces", len(c.Taps), c.NICs)
	}
	known := q.opts.Known
	if known == nil {
		if known, err = q.Know(c.Shape); err != nil {
			return nil, err
		}
	}
	key := known.Key
	if c.Template != nil && c.Template.Key != key {
		return nil, errors.New("vmm: the template is of another shape, or the monitor, kernel or initramfs changed since it was made")
	}

	p := &parcel{}
	defer p.closeTheirs()
	l := &Launched{Ports: map[string]*os.File{}, Shape: c.Shape, Key: key}
	defer func() {
		if err != nil {
			for _, f := range p.ours {
				f.Close()
			}
		}
	}()
	in := instructions{
		Root: known.Root, UID: c.Jail.UID, GID: c.Jail.GID, KVM: c.Accel == KVM,
		Limits: limits(c), Env: environment,
	}
	in.Args = append([]string{inProgram}, hardware(c.Shape)...)
	in.Args = append(in.Args, sandbox...)

	// The channels.
	channel := func(id string) (*os.File, error) {
		mine, theirs, err := p.pair(id)
		if err == nil {
			in.Args = append(in.Args, "-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, theirs))
		}
		return mine, err
	}
	if l.Monitor, err = channel("monitor"); err != nil {
		return nil, err
	}
	in.Args = append(in.Args, "-mon", "chardev=monitor,mode=control")
	if l.Console, err = channel("console"); err != nil {
		return nil, err
	}
	for i, name := range c.Ports {
		if l.Ports[name], err = channel(fmt.Sprintf("port%d", i)); err != nil {
			return nil, err
		}
	}

	if err := q.memory(c, p, &in, l); err != nil {
		return nil, err
	}

	for i := range c.NICs {
		fd := 0
		if i < len(c.Taps) && c.Taps[i] != nil {
			if fd, err = p.lend(c.Taps[i]); err != nil {
				return nil, err
			}
		} else {
			fd = p.reserve()
			in.Taps = append(in.Taps, tapAt{TapName(i), fd})
		}
		in.Args = append(in.Args, "-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, fd))
	}
	for _, group := range c.Jail.Cgroups {
		fd, err := p.lend(group)
		if err != nil {
			return nil, err
		}
		in.Cgroups = append(in.Cgroups, fd)
		in.Close = append(in.Close, fd)
	}

	stderr := c.Jail.Stderr
	if stderr == nil {
		reader, writer, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer writer.Close()
		p.ours = append(p.ours, reader)
		l.Stderr, stderr = reader, writer
	}
	l.PID, err = q.start(in, p, stderr)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// memory says where the guest's memory comes from: a template, a file that will
// be one, or nowhere.
func (q *QEMU) memory(c Config, p *parcel, in *instructions, l *Launched) error {
	switch {
	case c.Template != nil:
		memory, err := p.lend(c.Template.Memory)
		if err != nil {
			return err
		}
		// Opened anew, since clones that start at the same time would share one
		// descriptor's position.
		state, err := os.Open(fdPath(int(c.Template.State.Fd())))
		if err != nil {
			return err
		}
		l.StateFD = p.give(state)
		in.Args = append(in.Args, "-incoming", "defer",
			"-object", fmt.Sprintf("memory-backend-file,id=mem,size=%d,mem-path=%s,share=off", c.Memory, fdPath(memory)))
		return nil
	case c.Savable:
		memory, err := memoryFile("template", c.Memory)
		if err != nil {
			return err
		}
		p.ours = append(p.ours, memory)
		l.Memory = memory
		fd, err := p.lend(memory)
		if err != nil {
			return err
		}
		in.Args = append(in.Args, "-object", fmt.Sprintf("memory-backend-file,id=mem,size=%d,mem-path=%s,share=on", c.Memory, fdPath(fd)))
	default:
		in.Args = append(in.Args, "-object", fmt.Sprintf("memory-backend-ram,id=mem,size=%d", c.Memory))
	}
	// A cold boot reads its kernel.
	for _, file := range []struct{ flag, path string }{{"-kernel", c.Kernel}, {"-initrd", c.Initrd}} {
		if file.path == "" {
			continue
		}
		f, err := os.Open(file.path)
		if err != nil {
			return err
		}
		fd := p.give(f)
		if err := readable(f); err != nil {
			return err
		}
		in.Read = append(in.Read, fd)
		in.Args = append(in.Args, file.flag, fdPath(fd))
	}
	in.Args = append(in.Args, "-append", cmdline(c.Shape, c.Words))
	return nil
}

// limits of the process. Its memory is the cgroup's business.
func limits(c Config) []limit {
	size := c.Jail.FileSize
	if size == 0 {
		size = placeholderSize
	}
	return []limit{
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_NOFILE, 256},
		{unix.RLIMIT_NPROC, 512},
		{unix.RLIMIT_MEMLOCK, 0},
		{unix.RLIMIT_MSGQUEUE, 0},
		{unix.RLIMIT_FSIZE, uint64(max(size, c.Memory))},
	}
}

// start runs the stage in its namespaces.
func (q *QEMU) start(in instructions, p *parcel, stderr *os.File) (int, error) {
	told, err := memoryFile("instructions", 0)
	if err != nil {
		return 0, err
	}
	defer told.Close()
	data, err := json.Marshal(in)
	if err != nil {
		return 0, err
	}
	if _, err := told.WriteAt(data, 0); err != nil {
		return 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()

	files := []uintptr{null.Fd(), null.Fd(), stderr.Fd(), told.Fd()}
	for _, f := range p.theirs {
		if f == nil {
			// A place for what the stage opens itself.
			files = append(files, null.Fd())
			continue
		}
		files = append(files, f.Fd())
	}
	const all = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC |
		syscall.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	// Not os/exec: it must be this very thread that forks, since the monitor dies
	// with it.
	pid, err := syscall.ForkExec(q.opts.Stage[0], q.opts.Stage, &syscall.ProcAttr{
		Files: files, Env: []string{"GOMAXPROCS=2"},
		Sys: &syscall.SysProcAttr{Cloneflags: all, Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", q.opts.Stage[0], err)
	}
	return pid, nil
}

// parcel collects the descriptors that the monitor inherits, in the order of
// their numbers there.
type parcel struct {
	theirs []*os.File // a nil one is opened by the stage
	ours   []*os.File // other ends, which the caller keeps
}

const firstFD = instructionsFD + 1

// give hands over a file that the parcel then owns.
func (p *parcel) give(f *os.File) int {
	p.theirs = append(p.theirs, f)
	return firstFD + len(p.theirs) - 1
}

// lend hands over a copy.
func (p *parcel) lend(f *os.File) (int, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	return p.give(os.NewFile(uintptr(fd), f.Name())), nil
}

// reserve keeps a number free for the stage.
func (p *parcel) reserve() int { return p.give(nil) }

// pair makes a connection.
func (p *parcel) pair(name string) (*os.File, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	mine := os.NewFile(uintptr(fds[0]), name)
	p.ours = append(p.ours, mine)
	return mine, p.give(os.NewFile(uintptr(fds[1]), name)), nil
}

func (p *parcel) closeTheirs() {
	for _, f := range p.theirs {
		if f != nil {
			f.Close()
		}
	}
}

// memoryFile makes a file that is only in memory and can be sealed.
func memoryFile(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return oneLine(string(line), 200)
}

var versionNumbers = regexp.MustCompile(`version (\d+)\.(\d+)\.(\d+)`)

func parseVersion(out string) ([3]int, error) {
	m := versionNumbers.FindStringSubmatch(out)
	if m == nil {
		return [3]int{}, fmt.Errorf("%q tells no version", oneLine(out, 100))
	}
	var v [3]int
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1])
	}
	return v, nil
}

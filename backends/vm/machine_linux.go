package vm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/caisson-engine/caisson/engine/backend/backendpb"
	"github.com/caisson-engine/caisson/engine/backend/backendrpc"
	"github.com/caisson-engine/caisson/platform_linux/cgroup"
	"github.com/caisson-engine/caisson/vmshim/guestpb"
	"github.com/caisson-engine/caisson/vmshim/host"
	"github.com/caisson-engine/caisson/vmshim/vmm"
)

const (
	// closeTimeout is how long a machine may take to end by itself.
	closeTimeout = 30 * time.Second
	// answerTimeout is how long a shim may take to say that it is there.
	answerTimeout = 5 * time.Second
	// shimMemory is what a shim may use, in bytes, and filesMemory a file server
	// beside the host's cache of files, which gives way.
	shimMemory  = 64 << 20
	filesMemory = 64 << 20
)

// machine is one virtual machine, by way of its shim.
type machine struct {
	b    *Backend
	name string // of its directory and cgroup
	// sandbox is whose it is, after a restart of the backend.
	sandbox string
	dir     string
	uid     int
	group   *cgroup.Group
	shape   vmm.Shape

	remote *backendrpc.Remote
	agent  guestpb.GuestClient
	conn   *grpc.ClientConn
	ctl    *host.Control // nil after a restart of the backend
	files  *host.Control // of the file server; nil without shares, or after a restart of the backend
	netns  *os.File      // the monitor's own, where its taps are; nil once they were moved
	clone  bool
	brief  bool // nothing on its disks will be read again
	runs   bool // it is known to

	ended sync.Once
	done  chan struct{} // closed when the shim is gone
}

// machineRecord is what finds a machine again.
type machineRecord struct {
	UID    int    `json:"uid"`
	Cgroup string `json:"cgroup"`
	// Sandbox whose machine it is, if it was not made for it.
	Sandbox string    `json:"sandbox,omitempty"`
	Shape   vmm.Shape `json:"shape"`
}

const (
	machineFile = "machine"
	socketFile  = "socket"
	outputDir   = "output"
)

// order says what machine to start.
type order struct {
	name     string
	cgroup   string
	limits   *specs.LinuxResources // of the whole machine, beside its memory
	shape    vmm.Shape
	template *vmm.Template
	savable  bool
	fileSize int64 // of the largest writable disk
	netns    *os.File
}

// start starts a shim, and with it a machine. The machine need not run yet.
func (b *Backend) start(ctx context.Context, o order) (_ *machine, err error) {
	m := &machine{b: b, name: o.name, dir: filepath.Join(b.cfg.StateDir, "vms", o.name), shape: o.shape, clone: o.template != nil, done: make(chan struct{})}
	if m.uid, err = b.uid(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.machines[m] = true
	b.mu.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(err, m.destroy(context.WithoutCancel(ctx)))
		}
	}()
	if m.group, err = b.cgroups.Load(o.cgroup); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(m.dir, outputDir), 0o711); err != nil {
		return nil, err
	}
	record, err := json.Marshal(machineRecord{UID: m.uid, Cgroup: o.cgroup, Shape: o.shape})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(m.dir, machineFile), record, 0o600); err != nil {
		return nil, err
	}
	if err := m.makeGroup(o); err != nil {
		return nil, err
	}
	if err := m.startShim(o); err != nil {
		return nil, err
	}
	return m, m.dial()
}

// give makes a machine that was nobody's a sandbox's. Its shim holds the network
// from here on.
func (m *machine) give(s *sandbox) error {
	m.runs = true
	record, err := json.Marshal(machineRecord{UID: m.uid, Cgroup: m.group.Path(), Sandbox: s.id, Shape: m.shape})
	if err != nil {
		return err
	}
	path := filepath.Join(m.dir, machineFile)
	if err := os.WriteFile(path+".new", record, 0o600); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	if s.netns == nil {
		return nil
	}
	return m.ctl.Hold(s.netns)
}

// makeGroup makes the cgroup of shim, monitor and file server, which bounds what they can take
// from the host whatever the guest makes them do.
func (m *machine) makeGroup(o order) error {
	limits := &specs.LinuxResources{}
	if o.limits != nil {
		*limits = *o.limits
	}
	memory := vmm.Config{Shape: o.shape, Template: o.template}.HostMemory() + shimMemory + filesMemory
	pids := int64(256)
	limits.Memory, limits.Pids, limits.Devices = &specs.LinuxMemory{Limit: &memory}, &specs.LinuxPids{Limit: &pids}, nil
	_, warnings, err := m.b.cgroups.Create(m.group.Path(), limits)
	for _, w := range warnings {
		m.b.log.Warn(w, "machine", m.name)
	}
	return err
}

// startShim starts the process with all it needs, and waits until the monitor's
// process exists.
func (m *machine) startShim(o order) error {
	var files []*os.File
	defer func() {
		for _, f := range files {
			if f != nil {
				_ = f.Close()
			}
		}
	}()
	give := func(f *os.File, err error) (int, error) {
		if err != nil {
			return 0, err
		}
		files = append(files, f)
		return host.ConfigFD + len(files) - 1, nil
	}
	memfd, err := unix.MemfdCreate("config", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	config := os.NewFile(uintptr(memfd), "config")
	_, _ = give(config, nil)
	if _, err := give(m.listen()); err != nil {
		return err
	}
	if _, err := give(os.Open(filepath.Join(m.dir, outputDir))); err != nil {
		return err
	}
	ctl, theirs, err := host.NewControl()
	if err != nil {
		return err
	}
	m.ctl = ctl
	_, _ = give(theirs, nil)
	if o.netns != nil {
		_, err = give(os.Open(fdPath(o.netns)))
	} else {
		_, err = give(os.Open(os.DevNull))
	}
	if err != nil {
		return err
	}
	q, err := m.b.host.monitor()
	if err != nil {
		return err
	}
	known, err := q.Know(o.shape)
	if err != nil {
		return err
	}
	c := host.Config{
		Known:   known,
		Sandbox: o.name, QEMU: m.b.host.qemu, Runtime: filepath.Join(m.b.cfg.StateDir, "jail"), Shape: o.shape,
		Savable: o.savable, UID: m.uid, GID: m.uid, FileSize: o.fileSize, Version: m.b.cfg.Version,
	}
	for _, path := range m.group.TaskFiles() {
		fd, err := give(os.OpenFile(path, os.O_WRONLY, 0))
		if err != nil {
			return err
		}
		c.Cgroups = append(c.Cgroups, fd)
	}
	if t := o.template; t != nil {
		c.Clone = &host.CloneFiles{Key: t.Key}
		if c.Clone.Memory, err = give(os.Open(fdPath(t.Memory))); err != nil {
			return err
		}
		if c.Clone.State, err = give(os.Open(fdPath(t.State))); err != nil {
			return err
		}
	}
	blob, err := json.Marshal(&c)
	if err != nil {
		return err
	}
	if _, err := config.WriteAt(blob, 0); err != nil {
		return err
	}
	return m.run(files)
}

// run executes the shim.
func (m *machine) run(files []*os.File) error {
	cmd := exec.CommandContext(context.Background(), m.b.cfg.ShimPath, m.dir) // it outlives every call
	cmd.Env = []string{"GOMAXPROCS=2", "PATH=" + os.Getenv("PATH")}
	cmd.ExtraFiles = files
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stderr = log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	v2, err := m.group.V2()
	if err != nil {
		return err
	}
	if v2 != nil {
		defer v2.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(v2.Fd())
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w: %w", m.b.cfg.ShimPath, err, errdefs.ErrUnavailable)
	}
	go func() {
		_ = cmd.Wait()
		m.gone()
	}()
	pid, err := m.ctl.Launched()
	if err != nil {
		return m.failed("start a virtual machine", err)
	}
	if m.netns, err = os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net"); err != nil {
		return m.failed("start a virtual machine", err)
	}
	return nil
}

// gone says that the shim has ended.
func (m *machine) gone() { m.ended.Do(func() { close(m.done) }) }

// failed is an error with what the shim last said.
func (m *machine) failed(what string, err error) error {
	said := ""
	if b, e := os.ReadFile(filepath.Join(m.dir, "log")); e == nil && len(b) > 0 {
		said = " (" + string(b[max(0, len(b)-512):]) + ")"
	}
	return fmt.Errorf("%s: %w%s: %w", what, err, said, errdefs.ErrUnavailable)
}

// listen makes the socket that the shim serves. Its path may be longer than a
// socket's address, so it is named by way of its directory's descriptor.
func (m *machine) listen() (*os.File, error) {
	dir, err := os.Open(m.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	_ = os.Remove(filepath.Join(m.dir, socketFile))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fdPath(dir) + "/" + socketFile, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer func() { _ = l.Close() }()
	return l.File()
}

func fdPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// dial connects to the shim.
func (m *machine) dial() (err error) {
	m.conn, err = grpc.NewClient("passthrough:shim", append(backendrpc.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			dir, err := os.Open(m.dir)
			if err != nil {
				return nil, err
			}
			defer dir.Close()
			var d net.Dialer
			return d.DialContext(ctx, "unix", fdPath(dir)+"/"+socketFile)
		}))...)
	if err == nil {
		m.remote, m.agent = backendrpc.New(m.conn), guestpb.NewGuestClient(m.conn)
	}
	return err
}

// close has the guest write back its disks and ends the machine. It can be
// repeated.
func (m *machine) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	select {
	case <-m.done:
	default:
		if m.remote != nil && !m.brief {
			if err := m.remote.Close(ctx, m.name); err != nil && !errdefs.IsUnavailable(err) {
				m.b.log.Warn("a virtual machine did not end well", "machine", m.name, "err", err)
			}
		}
	}
	return m.destroy(context.WithoutCancel(ctx))
}

// destroy kills what is left of a machine and removes its traces.
func (m *machine) destroy(ctx context.Context) error {
	if m.group != nil {
		if err := m.group.Kill(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("machine %s: %w", m.name, err)
		}
		if err := m.group.Delete(ctx); err != nil {
			return fmt.Errorf("machine %s: %w", m.name, err)
		}
	}
	m.gone()
	if m.conn != nil {
		_ = m.conn.Close()
	}
	if m.ctl != nil {
		_ = m.ctl.Close()
	}
	if m.files != nil {
		_ = m.files.Close()
	}
	if m.netns != nil {
		_ = m.netns.Close()
	}
	if err := os.RemoveAll(m.dir); err != nil {
		return fmt.Errorf("machine %s: %w", m.name, err)
	}
	m.b.mu.Lock()
	delete(m.b.machines, m)
	m.b.mu.Unlock()
	m.b.freeUID(m.uid)
	return nil
}

// recoverMachine finds a machine that an earlier backend started; nil if there is
// none left.
func (b *Backend) recoverMachine(ctx context.Context, name string) (*machine, error) {
	m := &machine{b: b, name: name, dir: filepath.Join(b.cfg.StateDir, "vms", name), done: make(chan struct{})}
	var r machineRecord
	blob, err := os.ReadFile(filepath.Join(m.dir, machineFile))
	if err == nil {
		err = json.Unmarshal(blob, &r)
	}
	if err != nil {
		return nil, os.RemoveAll(m.dir) // killed before anything was started
	}
	m.uid, m.shape, m.sandbox = r.UID, r.Shape, cmp.Or(r.Sandbox, name)
	b.mu.Lock()
	b.uids[m.uid] = true
	b.mu.Unlock()
	if m.group, err = b.cgroups.Load(r.Cgroup); err != nil {
		return nil, err
	}
	if err := m.dial(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if _, err := m.remote.Info(ctx); err != nil {
		return nil, m.destroy(context.WithoutCancel(ctx))
	}
	return m, nil
}

// kill ends a machine whose shim does not do what it should.
func (m *machine) kill() {
	if err := m.group.Kill(context.Background()); err != nil {
		m.b.log.Error("a virtual machine cannot be killed", "machine", m.name, "err", err)
	}
	m.gone()
}

// update gives a container new limits: within the machine's own size, beyond which
// they are refused, and on this host for the machine.
func (m *machine) update(ctx context.Context, id string, blob []byte) error {
	r := &specs.LinuxResources{}
	if err := json.Unmarshal(blob, r); err != nil {
		return fmt.Errorf("resources: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	p := &plan{}
	p.resources(r)
	if p.memory > m.shape.Memory {
		return unsupported("its virtual machine has %d MiB of memory, which cannot grow while it runs: stop the container before the update", m.shape.Memory>>20)
	}
	if p.cpus > m.shape.CPUs {
		return unsupported("its virtual machine was made for --cpus %d, which cannot become more while it runs: stop the container before the update", m.shape.CPUs)
	}
	if err := m.hold(p.host); err != nil {
		return err
	}
	r.Devices = nil
	blob, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return m.remote.Update(ctx, &backendpb.UpdateRequest{Container: id, Resources: blob})
}

// hold has the host keep the machine to limits; nil are none.
func (m *machine) hold(limits *specs.LinuxResources) error {
	if limits == nil {
		return nil
	}
	warnings, err := m.group.Update(limits)
	for _, w := range warnings {
		m.b.log.Warn(w, "machine", m.name)
	}
	return err
}

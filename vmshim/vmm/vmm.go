package vmm

import (
	"context"
	"net"
	"os"
)

// VMM is a virtual machine monitor. QEMU is one; another can follow without a
// change above it.
//
// # The life of a machine
//
//	Launch ──▶ Attach ──▶ running ◀──Pause/Resume──▶ paused
//	                         │
//	                         ├─ Save ────▶ ended (ErrSaved), and a Template
//	                         ├─ Kill ────▶ ended (ErrKilled)
//	                         └─ it ends by itself ─▶ ended (*Exit says why)
//
// A machine is started in two halves, because only the first needs rights:
//
//   - Launch runs as root, before anything that a guest could influence exists.
//     It starts the monitor's process in its jail and returns at once with that
//     process and the descriptors that lead to it.
//   - Attach needs no rights at all. It speaks with the monitor, finishes the boot
//     or the restore, and returns the running Machine. From here on the process
//     that calls it reads what the guest says.
//
// Between the halves the caller drops what it had, usually by executing itself
// with nothing but Launched's descriptors: see Launched.Handover and Receive.
// The monitor dies with the thread that called Launch (PR_SET_PDEATHSIG), so a
// process that executes itself in between must call Launch on the thread that
// executes; the main goroutine after runtime.LockOSThread in an init is it.
//
// # Cold and cloned
//
// A Config without Template boots its kernel. With one, the machine is a clone:
// its memory is the template's, copied where it writes, and the guest goes on
// where Save stopped it, in the middle of whatever it did. Everything random or
// unique in the guest is then the same as in every other clone, and its clock
// stands where the template's stood: its first message over a port must give it
// entropy, time and names before any tenant's code runs.
//
// Shape is what must be equal between a template and its clones. Disks and
// networks are placeholders in a template: disks that read as zeros and networks
// that lead nowhere. SetDisk and Config.Taps put the real ones in.
type VMM interface {
	// Name is the monitor's name and version, as `info` shows it.
	Name() string

	// Key is what a template must be keyed by: all of Shape, the contents of the
	// files it names, the monitor's version and firmware, the processor's model.
	// Two configurations with equal keys can share a template.
	Key(Shape) (string, error)

	// Launch starts the monitor's process in its jail. It returns as soon as the
	// process exists. All files in the Config may be closed after it.
	Launch(Config) (*Launched, error)

	// Attach takes over what Launch started and returns once the machine runs;
	// for a machine of Config.Paused once it could run. It owns the Launched from
	// then on, and kills the process if it fails.
	Attach(context.Context, *Launched) (Machine, error)
}

// Accel is how the guest's instructions are run.
type Accel string

const (
	// KVM is hardware virtualisation. Only ever chosen after Probe saw a guest
	// run through it.
	KVM Accel = "kvm"
	// TCG is emulation in the monitor's own process. By QEMU's own statement it
	// is no security boundary: the jail around it is then the only one.
	TCG Accel = "tcg"
)

// Shape is what a machine looks like to its guest.
type Shape struct {
	Accel Accel
	// Kernel and Initrd are files. Flavour says which devices that kernel finds.
	Kernel  string
	Initrd  string
	Flavour Flavour
	// Cmdline is appended to what the flavour and the accelerator need.
	Cmdline string

	Memory int64 // bytes, a multiple of 1 MiB
	CPUs   int

	// Disks are the slots, in the order in which the guest names them: vda, vdb…
	// Every slot is a placeholder until SetDisk. At most MaxDisks.
	Disks []DiskSlot
	// NICs is how many network interfaces there are: eth0, eth1… At most MaxNICs.
	NICs int
	// Ports are the names of the channels between host and guest. The guest finds
	// each as /sys/class/virtio-ports/*/name. At most MaxPorts.
	Ports []string
}

// Limits of a Shape. Devices are few on purpose: each costs boot time and memory,
// and this machine has eight places for them, of which the ports take one.
const (
	MaxDisks   = 4
	MaxNICs    = 3
	MaxDevices = 7 // disks and NICs together
	MaxPorts   = 8
)

// DiskSlot is a place for a disk.
type DiskSlot struct {
	// ReadOnly is the guest's view of the disk. It is part of the template; a
	// writable slot can not become read-only later.
	ReadOnly bool
}

// Flavour is the kind of guest kernel.
type Flavour string

const (
	// OwnKernel is built from vmshim/guestos/kernel.config: everything built in,
	// virtio-mmio devices named on its command line, no ACPI.
	OwnKernel Flavour = "caisson"
	// DebianKernel is Debian's cloud kernel: drivers are modules in the initramfs,
	// devices are found by ACPI. Slower to boot, and there at once.
	DebianKernel Flavour = "debian-cloud"
)

// Config is one machine to start.
type Config struct {
	Shape

	// Template to clone; nil boots cold.
	Template *Template
	// Savable puts the memory where Save can turn it into a template. It is for
	// machines that make templates, never for one that runs a tenant's code.
	Savable bool
	// Words are more of the kernel's command line, for this machine alone.
	Words string

	// Taps are the interfaces' other ends, one per NIC, opened with IFF_TAP,
	// IFF_NO_PI and IFF_VNET_HDR. A nil one is made by the jail itself, named
	// TapName(i), down, in the monitor's own network namespace, which is otherwise
	// empty: it leads nowhere until a privileged process moves the interface into
	// another namespace (/proc/PID/ns/net), which may be at any time.
	Taps []*os.File

	Jail Jail
}

// Jail is the confinement of the monitor's process, over what it always is: in
// mount, pid, network, ipc, uts and cgroup namespaces of its own, on a read-only
// root that holds the monitor's own program and libraries and nothing else, with
// no capabilities, no_new_privs, system call filters, and only the descriptors
// that it was started with. See the package comment.
type Jail struct {
	// UID and GID of the process. They must be above zero and should belong to
	// this machine alone.
	UID, GID int
	// Cgroups are cgroup.procs files, opened for writing, of the groups that the
	// process shall be in: one on a unified host, one per controller otherwise.
	// They must allow for Config.HostMemory().
	Cgroups []*os.File
	// FileSize is the most bytes that any file that the process holds may grow to;
	// set it to the largest writable disk's size. Zero is 1 TiB.
	FileSize int64
	// Stderr takes the monitor's own words; nil keeps the last few for Exit.
	Stderr *os.File
}

// HostMemory is the most host memory that the machine may be charged for: the
// guest's, and the monitor's own for tables, buffers and translated code. A clone
// may besides be the first to touch pages that its template has not: the kernel
// then puts a page of zeros into the template, at the cost of who touched it.
func (c Config) HostMemory() int64 {
	n := c.Memory + overhead(c.Shape)
	if c.Template != nil {
		n += c.Memory
	}
	return n
}

// TapName is the name of the tap that the jail makes for a NIC without one.
func TapName(nic int) string { return "tap" + string(rune('0'+nic)) }

// Template is a stopped machine to clone: guest memory and device state, both in
// memory files that are sealed, so that neither a clone nor anyone that holds
// them can change a byte. It lives as long as one of its descriptors is open.
type Template struct {
	// Key is VMM.Key of the shape that it was made with.
	Key    string
	Memory *os.File
	State  *os.File
}

// Close gives the descriptors back. Running clones are not touched.
func (t *Template) Close() error {
	err := t.Memory.Close()
	if e := t.State.Close(); err == nil {
		err = e
	}
	return err
}

// Machine is a running machine.
type Machine interface {
	// Port is the host's end of a channel of Shape.Ports. What comes out of it was
	// written by the guest. It is the same connection at every call; reads fail
	// with io.EOF once the machine ended.
	Port(name string) net.Conn

	// SetDisk puts a raw image, a regular file, into a slot. The guest is told a
	// writable slot's new size. A read-only slot goes on looking as large as its
	// placeholder, 1 TiB, of which reads past the image fail: a file system knows
	// its own size. A slot has one image at a time. The file may be closed after
	// the call.
	SetDisk(ctx context.Context, slot int, image *os.File) error
	// ClearDisk takes a slot's image out, which the guest must have done with. The
	// slot is a placeholder again, of the size that it had last, and takes another.
	ClearDisk(ctx context.Context, slot int) error

	// Pause stops the guest's processors, Resume lets them go on. Both can be
	// repeated.
	Pause(context.Context) error
	Resume(context.Context) error

	// Save stops the machine for good and makes a template of it. The machine must
	// have been started with Savable, and no disk been set.
	Save(context.Context) (*Template, error)

	// Console is what the guest's kernel said last, at most ConsoleSize of it. A guest
	// that floods its console loses words, as it would on a serial line.
	Console() string

	// PID of the monitor's process, as seen by the caller.
	PID() int

	// Done is closed when the machine ended; Err says why, and is nil before.
	Done() <-chan struct{}
	Err() error

	// Kill ends the machine at once and returns when it is gone. It can be repeated.
	Kill() error
}

// ConsoleSize is how much of the guest kernel's words are kept.
const ConsoleSize = 64 << 10

package vmm

import (
	"fmt"
	"strings"
)

// flavours says what each kernel needs of the machine and on its command line.
//
// Our own kernel finds its devices on the command line, where QEMU writes them;
// Debian's looks for them in ACPI's tables. The chips of old are there for both:
// without the timer a kernel under emulation has nothing to calibrate its own
// timer with, and boots, and answers, but no sleep in it ever ends; without the
// clock a boot takes twice as long.
var flavours = map[Flavour]struct {
	machine string
	hz      int64 // CONFIG_HZ
	cmdline string
}{
	OwnKernel: {"microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=off", 100, ""},
	DebianKernel: {
		// The second interrupt chip would give more places for devices, whose
		// interrupts then do not arrive.
		"microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=off,ioapic2=off", 250,
		// Self-tests and start-up work that no guest of ours uses and that take a
		// third of an emulated boot.
		"cryptomgr.notests=1 mitigations=off nokaslr lsm= audit=0 " +
			"initcall_blacklist=init_kprobe_trace,load_system_certificate_list,crypto_kdf108_init,cubictcp_register,init_encrypted,slab_sysfs_init,perf_event_sysfs_init",
	},
}

// cmdline is the kernel's.
func cmdline(s Shape, more string) string {
	// A panic resets at once, by triple fault, which ends the machine; its message
	// is on the console by then.
	//
	// Whether the timer's interrupts arrive is not tried out: a host that is busy delivers
	// too few of them in the time of the trial, and the kernel panics before it has a
	// console to say so.
	words := []string{"quiet", "console=hvc0", "reboot=t", "panic=-1", "random.trust_cpu=on", "no_timer_check"}
	if khz := tscKHz(); s.Accel == TCG && khz > 0 {
		// Reliable as far as the host's is, which it is; watching it would wake an
		// idle guest twice a second.
		words = append(words, "tsc=reliable", fmt.Sprintf("tsc_early_khz=%d", khz), fmt.Sprintf("lpj=%d", khz*1000/flavours[s.Flavour].hz))
	}
	words = append(words, flavours[s.Flavour].cmdline, s.Cmdline, more)
	return strings.TrimSpace(strings.Join(words, " "))
}

// hardware is the part of QEMU's command line that makes the guest's machine: all
// that must be equal between a template and its clones.
func hardware(s Shape) []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-L", inFirmware,
		"-M", flavours[s.Flavour].machine + ",memory-backend=mem",
		"-m", fmt.Sprintf("%dM", s.Memory>>20),
		// A machine that can never have a second processor is emulated without the
		// barriers of its atomic operations. Devices run in another thread, though, and a
		// virtqueue whose notification is lost for want of one stops for good.
		"-smp", fmt.Sprintf("cpus=%d,maxcpus=%d", s.CPUs, max(s.CPUs, 2)),
		"-global", "virtio-mmio.force-legacy=false",
	}
	switch s.Accel {
	case KVM:
		args = append(args, "-accel", "kvm", "-cpu", "host")
	default:
		// Emulation runs "rep movsb" byte by byte: the guest is better off when it
		// does not know that it could be fast.
		args = append(args, "-accel", fmt.Sprintf("tcg,tb-size=%d", tcgBuffer>>20), "-cpu", "max,-erms,-fsrm,-smap")
	}
	// Devices have fixed places, so that the guest finds and names them in our
	// order: it is told of the places downwards.
	next := len(s.Disks) + s.NICs
	place := func() string {
		at := fmt.Sprintf(",bus=virtio-mmio-bus.%d", next)
		next--
		return at
	}
	args = append(args, "-device", fmt.Sprintf("virtio-serial-device,id=ports,max_ports=%d%s", MaxPorts+1, place()),
		"-device", "virtconsole,bus=ports.0,nr=0,chardev=console")
	for i, name := range s.Ports {
		args = append(args, "-device", fmt.Sprintf("virtserialport,bus=ports.0,nr=%d,chardev=port%d,name=%s", i+1, i, name))
	}
	for i, d := range s.Disks {
		ro := onOff(d.ReadOnly)
		args = append(args,
			// As large as a disk can become: a guest sees the slot shrink when the real
			// one comes.
			"-blockdev", fmt.Sprintf("driver=null-co,node-name=none%d,read-only=%s,size=%d,read-zeroes=on", i, ro, int64(placeholderSize)),
			"-blockdev", fmt.Sprintf("driver=raw,node-name=disk%d,read-only=%s,discard=unmap,file=none%d", i, ro, i),
			"-device", fmt.Sprintf("virtio-blk-device,drive=disk%d%s", i, place()))
	}
	for i := range s.NICs {
		args = append(args, "-device", fmt.Sprintf("virtio-net-device,netdev=net%d,mac=52:54:00:00:00:%02x%s", i, i+1, place()))
	}
	return args
}

// placeholderSize is the size of a disk that is not there yet.
const placeholderSize = 1 << 40

// sandbox is QEMU's own system call filter, which it installs once it has started.
var sandbox = []string{"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"}

// environment of the monitor: where its libraries are in its root, and one heap
// instead of one per thread.
var environment = []string{
	"LD_LIBRARY_PATH=" + inLibs,
	"QEMU_MODULE_DIR=" + inModules,
	"MALLOC_ARENA_MAX=1",
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// Package vmm starts virtual machines, cold or as clones of a template, each in a
// jail of its own. VMM in vmm.go tells a machine's life; QEMU implements it with
// QEMU's microvm machine.
//
// # Who does what, with which rights
//
//	backend (root)   cgroups, user ids, images, taps, templates: owns the host's side
//	   │ starts
//	vmshim stage 0 (root, seconds at most, reads nothing that a guest wrote)
//	   │ Launch ──clone──▶ jail stage (root in new namespaces) ──exec──▶ QEMU
//	   │ exec                                                             ▲
//	vmshim stage 1 (the machine's uid, no rights) ◀── Attach: QMP, ports ─┘
//
// So nothing privileged ever reads a byte from a guest or from a QEMU that a guest
// may have taken over; what does, has the rights of the QEMU itself, and can kill
// it for having the same uid. QEMU in turn can not even see it.
//
// # The jail
//
// A guest is assumed to be able to run its own code in QEMU. Then it is a process
//
//   - with a uid that no other machine has, in cgroups that limit what it takes;
//   - in new mount, pid, network, ipc, uts and cgroup namespaces;
//   - whose root is a read-only directory with a copy of QEMU, its libraries and
//     firmware, and a procfs of itself alone; no /dev but a /dev/kvm if it uses it;
//   - without capabilities, in any set, and never to gain one (no_new_privs,
//     securebits); not dumpable, since it may not read its own program;
//   - behind two system call filters: ours (filter_linux_amd64.go has the list, with
//     reasons) before it starts, QEMU's own -sandbox once it has: no exec, fork,
//     ptrace, sockets, namespaces, mounts, keys, bpf, io_uring;
//   - under Landlock where the kernel has it: reads in that root, no TCP, no signal
//     and no abstract socket out;
//   - with the descriptors it was given, all inherited: its control connection, the
//     guest's ports and console, its taps, its disks, and the sealed memory of its
//     template, which neither it nor root can write to;
//   - that dies with the process that started it.
//
// There is no user namespace: a process without capabilities that can get none, in
// a root without set-id programs, gains nothing by one, and hosts forbid them.
//
// TestJail reads all this back from /proc.
//
// # Templates
//
// A template is a guest's memory, in a sealed memory file, and its devices' state.
// Clones map the memory privately; nothing is copied before it is written to.
// Because the mapping is private and the file sealed, QEMU can not give single
// pages back to the host: there is no balloon. A guest is shrunk by the limits of
// the containers in it.
//
// # Accelerators
//
// QEMU's project treats emulation (TCG) as no security boundary. All of the above
// is there for both; with TCG it is all there is. Probe finds out which there is.
//
// # Versions of QEMU
//
// QEMU 7.2 is the oldest that is tried; floor.go has the oldest release of each
// series that is accepted, and the holes that are known. What counts are the devices
// that a guest finds here: virtio-mmio, -blk, -net, -console, the interrupt, timer
// and clock chips.
package vmm

// Package vm is the backend of the vm level on Linux: each sandbox is a virtual
// machine of its own, with its own kernel.
//
// # Who does what
//
//	backend (here)   records, disks, networks, FIFOs, logs; root
//	caisson-vmshim   one per machine, no rights: speaks with the guest (vmshim/host)
//	caisson-vmfiles  one per machine that shares files of this host (vmshim/share)
//	monitor          one per machine, jailed (vmshim/vmm)
//	guest            kernel and agent, which is the Linux backend (vmshim/guest)
//
// The backend never parses a byte that a guest wrote, but for what the shim checked
// and what goes into a log. It never mounts a disk that a guest has written: files
// of a container that does not run are reached through a machine made for it.
//
// # What is where
//
//	boot                           which boot of the host the rest is from
//	events                         the journal of events
//	images/                        read-only images of root filesystems
//	sandboxes/<id>                 backendpb.Sandbox
//	vms/<id>/                      a machine: record, socket, FIFOs
//	containers/<id>/record         backendpb.Container
//	containers/<id>/shares         what it has of this host's files, as JSON
//	containers/<id>/stdout.spool   output on its way (see kit.Output)
//	containers/<id>/execs/<id>/    the same of each exec
//	<Container.state_dir>/vm.disk  the container's writable disk; lives as long as
//	                               the container's record in the engine
//
// # The life of a machine
//
// Open only looks at the network namespace. Create starts the machine, since only
// the container tells how much memory it wants: from the pool, else as a clone of
// a template, else by booting. Close has the guest write back its disks and ends
// it. A machine that ends by itself ends its containers, with a reason.
package vm

// Package oci is the backend that drives an OCI runtime which the host owner has
// installed and declared: gVisor's runsc, crun, runc, or another with the same
// commands. One process serves one declared runtime; the backend's name is the
// runtime's, its level and strength are what the host owner says they are.
//
// It is written as a stranger would write one: against the contract, the kit and
// the log format, and with two libraries of kernel mechanics that know nothing of
// the engine (control groups; files of a root). It launches through the same
// plugin.Serve, and is right because backendtest.Run passes.
//
// # Who does what
//
//	backend  ──▶ monitor ──▶ runtime create, exec ──▶ the container's processes
//	   └──────▶ runtime start, kill, delete
//
// The backend keeps records, logs and events, makes the bundle, mounts the root
// filesystem below its state directory, makes the control group and sets its
// limits, and reads the statistics there. The monitor (package monitor) is the
// parent of what the runtime leaves behind, and holds what must not be closed
// while the backend is away. The runtime makes the container.
//
// What OCI leaves to the runtime and runtimes do differently is one table
// (dialects), and so is what of a spec each of them is spared (config). A spec
// that asks for what the runtime would silently do otherwise is refused.
//
// # What is where
//
//	boot                        which boot of the host the rest is from
//	events                      the journal of events
//	kind                        what the runtime said it is
//	monitor/                    the monitor's socket, notes and log
//	runtime/                    the runtime's own --root
//	sandboxes/<id>              backendpb.Sandbox
//	containers/<id>/record      backendpb.Container
//	containers/<id>/started     there from just before the runtime's start
//	containers/<id>/bundle/     config.json and the mounted rootfs
//	containers/<id>/execs/<id>/ record, process.json and output of each exec
//
// A record is written before anything else of its object is made, and removed
// after everything else of it is gone.
//
// # A program that cannot be executed
//
// Runtimes look for it at different times: runc and crun at create, runsc at
// start. Here create then succeeds and start reports it, as the contract says.
// The runtimes' words for it are a table too (failures).
//
// # Differences between runsc and the process level
//
//	what                          | with runsc
//	------------------------------|------------------------------------------------
//	host's network, pid, ipc, uts | refused: there is no kernel to share
//	devices (--device)            | refused; --privileged gets capabilities only
//	container:<id> modes          | refused: a sandbox's namespaces are its own
//	--init, --userns              | refused, here with every runtime
//	top                           | refused: its processes are not the host's
//	limits and stats              | of the sandbox as a whole, gVisor's own memory
//	                              | included; an update is not seen inside
//	seccomp profile               | not used: gVisor's kernel is what programs meet
//	inspect's Pid                 | 0
//	firewall rules in the netns   | not seen: gVisor has its own network stack
//	accounts for exec --user      | from the image and what was written over it, not
//	                              | from a volume mounted over /etc
//	name of a terminal (tty)      | none; it is one all the same
//	pause                         | gVisor's own: its network stack runs on
package oci

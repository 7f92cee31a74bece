// Package initproc is what caisson-init does inside a new container: it takes
// Instructions over a socket, builds the container around itself, waits at the
// start gate and executes the program.
//
// # The steps
//
// They run in this order; each is one function whose comment says why it is
// there and which hole it closes.
//
//	 1  receive     read and check the instructions
//	 2  keyring     a session keyring of its own
//	 3  namespaces  cgroup and time namespace, host and domain name
//	 4  detach      cut mount propagation to the host
//	 5  prepare     make every mount, detached, while the host's paths are there
//	 6  pivot       make the root filesystem the root and drop the host's
//	 7  attach      put every mount where it belongs, inside the new root
//	 8  devices     nodes and links in /dev
//	 9  console     a terminal of the container's own devpts
//	10  sysctls     through a procfs of our own
//	11  restrict    masked and read-only paths, read-only root
//	12  process     user, limits, working directory, program
//	13  gate        say that it is ready, wait for the start
//	14  privileges  capabilities, no_new_privs, seccomp
//	15  execute
//
// Another process in a running container (exec) starts in the container's
// namespaces, where the keeper put it, and skips 3 to 8, 10 and 11.
//
// # What an image can do to us
//
// Everything below the root filesystem may be hostile, and so may be volumes
// that other containers write to at the same time. Before the pivot no path in
// it is looked up at all. After the pivot the host's tree is gone from this
// mount namespace, so that even a wrong look-up ends inside the container; and
// still each path is opened once with openat2 (no magic links, in the root),
// checked by its descriptor, and used by its descriptor.
//
// caisson-init itself is executed from a sealed memory file, is not dumpable,
// and hands no descriptor over 2 to the program, so that no way leads from
// /proc/self/exe or /proc/self/fd to the host (CVE-2019-5736, CVE-2024-21626).
package initproc

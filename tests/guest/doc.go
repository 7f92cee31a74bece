// Package guest runs the process-level suites again under Debian's own kernel
// with cgroup v2 only, inside a virtual machine that QEMU emulates: most hosts
// that these tests run on have no second cgroup layout to offer, and none has a
// second kernel.
package guest

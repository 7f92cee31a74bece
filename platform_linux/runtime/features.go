//go:build linux

package runtime

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caisson-engine/caisson/platform_linux/caps"
)

// Features are what the running kernel offers of what we use.
type Features struct {
	UserNS          bool // user namespaces, and overlays of mapped layers for them (6.13)
	TimeNS          bool // time namespaces
	CgroupNS        bool // cgroup namespaces
	Seccomp         bool // seccomp filters
	AppArmor        bool // AppArmor is enabled
	PidfdExit       bool // PIDFD_INFO_EXIT: exit codes survive the keeper (6.15)
	CloneIntoCgroup bool // CLONE_INTO_CGROUP (5.7)
	MountAPI        bool // mounts by descriptor, with attributes (5.12)
	OverlayLowerAdd bool // overlayfs lowerdir+ (6.5)
	SysResource     bool // CAP_SYS_RESOURCE: hard limits can be raised
}

// consequences are what it means that a feature is missing. AppArmor is not
// among them: most hosts rightly have another security module, or none.
var consequences = []struct {
	has  func(*Features) bool
	text string
}{
	{func(f *Features) bool { return f.MountAPI }, "This kernel cannot make mounts by descriptor (Linux 5.12): containers cannot be run."},
	{func(f *Features) bool { return f.CloneIntoCgroup }, "This kernel cannot start a process in a given cgroup (Linux 5.7): containers cannot be run with cgroup v2."},
	{func(f *Features) bool { return f.Seccomp }, "This kernel has no seccomp filters: containers with a seccomp profile cannot be run."},
	{func(f *Features) bool { return f.UserNS }, "User namespaces are not available, or the kernel is older than Linux 6.13 and cannot map images into them: --userns cannot be used."},
	{func(f *Features) bool { return f.CgroupNS }, "This kernel has no cgroup namespaces: containers would see the host's cgroup paths."},
	{func(f *Features) bool { return f.TimeNS }, "This kernel has no time namespaces."},
	{func(f *Features) bool { return f.PidfdExit }, "This kernel is older than Linux 6.15: if caisson-keeper is killed, exit codes of the containers running then will be unknown (255)."},
	{func(f *Features) bool { return f.OverlayLowerAdd }, "This kernel is older than Linux 6.5: images with more than about 60 layers cannot be run."},
	{func(f *Features) bool { return f.SysResource }, "CAP_SYS_RESOURCE is missing: hard resource limits cannot be raised and OOM scores cannot be lowered."},
}

// Missing names what is not there and what that means, one sentence each.
func (f Features) Missing() []string {
	var list []string
	for _, c := range consequences {
		if !c.has(&f) {
			list = append(list, c.text)
		}
	}
	return list
}

// ProbeFeatures asks the kernel. It makes no lasting change.
func ProbeFeatures() Features {
	return Features{
		UserNS:          namespaceHere("user") && limitAbove("/proc/sys/user/max_user_namespaces") && kernelAtLeast(6, 13),
		TimeNS:          namespaceHere("time"),
		CgroupNS:        namespaceHere("cgroup"),
		Seccomp:         hasSeccomp(),
		AppArmor:        startsWith("/sys/module/apparmor/parameters/enabled", "Y"),
		PidfdExit:       kernelAtLeast(6, 15),
		CloneIntoCgroup: hasClone3(),
		MountAPI:        hasMountSetattr(),
		OverlayLowerAdd: kernelAtLeast(6, 5),
		SysResource:     ownCaps()&caps.SysResource != 0,
	}
}

func namespaceHere(name string) bool {
	_, err := os.Lstat("/proc/self/ns/" + name)
	return err == nil
}

// limitAbove is false only if the file says 0; a kernel without it has no limit.
func limitAbove(path string) bool { return !startsWith(path, "0\n") }

func startsWith(path, prefix string) bool {
	text, err := os.ReadFile(path)
	return err == nil && strings.HasPrefix(string(text), prefix)
}

// hasSeccomp asks for a filter at no address: EFAULT says that there would be
// one.
func hasSeccomp() bool {
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, 0)
	return errno == syscall.EFAULT
}

// kernelAtLeast goes by the version, for what cannot be asked without doing it:
// kernels from 6.13 know the ioctl that from 6.15 on tells of the dead, and those
// before 6.5 take any option of an overlay until it is mounted.
func kernelAtLeast(major, minor int) bool { //nolint:unparam // a version has both
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return false
	}
	return atLeast(unix.ByteSliceToString(uts.Release[:]), major, minor)
}

// atLeast compares a kernel's release.
func atLeast(release string, major, minor int) bool {
	var have [2]int
	part := 0
	for _, c := range release {
		switch {
		case c >= '0' && c <= '9':
			have[part] = have[part]*10 + int(c-'0')
		case c == '.' && part == 0:
			part = 1
		default:
			return have[0] > major || have[0] == major && have[1] >= minor
		}
	}
	return have[0] > major || have[0] == major && have[1] >= minor
}

// hasClone3 asks for a clone3 of arguments of no size, which any kernel that has
// it refuses as invalid. CLONE_INTO_CGROUP came two releases after it.
func hasClone3() bool {
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	return errno == syscall.EINVAL
}

func hasMountSetattr() bool {
	return !errors.Is(unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}), syscall.ENOSYS)
}

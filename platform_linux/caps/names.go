package caps

import "strings"

// names are in the order of the kernel's numbers, without CAP_.
var names = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL",
	"SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE",
	"NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
	"SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
	"SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL",
	"SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM",
	"BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// Bits of the capabilities that code asks for by name.
const (
	SetPCap     = 1 << 8
	SysAdmin    = 1 << 21
	SysResource = 1 << 24
)

// Mask returns the set that the OCI names (CAP_…, case ignored) make, and those
// names that no capability has. Unknown ones are left out: a client may know
// more than the kernel does.
func Mask(list []string) (mask uint64, unknown []string) {
	for _, name := range list {
		bit, ok := number(name)
		if !ok {
			unknown = append(unknown, name)
			continue
		}
		mask |= 1 << bit
	}
	return mask, unknown
}

func number(name string) (int, bool) {
	short, ok := strings.CutPrefix(strings.ToUpper(name), "CAP_")
	if !ok {
		return 0, false
	}
	for i, n := range names {
		if n == short {
			return i, true
		}
	}
	return 0, false
}

// Names returns the OCI names of a set, in the kernel's order.
func Names(mask uint64) []string {
	var list []string
	for i, n := range names {
		if mask&(1<<i) != 0 {
			list = append(list, "CAP_"+n)
		}
	}
	return list
}

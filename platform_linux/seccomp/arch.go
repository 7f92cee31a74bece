package seccomp

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// arch is one architecture of system calls.
type arch struct {
	name specs.Arch
	// audit is the kernel's AUDIT_ARCH_ constant. x32 shares that of x86_64.
	audit uint32
	// bit is set in all its numbers.
	bit    uint32
	narrow bool // arguments have 32 bits
	table  string
	// more replaces or extends the table.
	more string
}

const x32Bit = 0x40000000

// archs are those that an amd64 or arm64 kernel can run.
var archs = []arch{
	{name: specs.ArchX86_64, audit: 0xc000003e, table: tableX8664},
	{name: specs.ArchX32, audit: 0xc000003e, bit: x32Bit, table: tableX8664, more: tableX32},
	{name: specs.ArchX86, audit: 0x40000003, narrow: true, table: tableX86},
	{name: specs.ArchAARCH64, audit: 0xc00000b7, table: tableAArch64},
	{name: specs.ArchARM, audit: 0x40000028, narrow: true, table: tableARM, more: tableARMPrivate},
}

// native is the architecture of a kernel, by GOARCH.
var native = map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}

// foreign are names that are valid in a profile, and that no kernel we run on
// has: nothing can call by them.
var foreign = map[specs.Arch]bool{
	specs.ArchMIPS: true, specs.ArchMIPS64: true, specs.ArchMIPS64N32: true, specs.ArchMIPSEL: true,
	specs.ArchMIPSEL64: true, specs.ArchMIPSEL64N32: true, specs.ArchPPC: true, specs.ArchPPC64: true,
	specs.ArchPPC64LE: true, specs.ArchS390: true, specs.ArchS390X: true, specs.ArchPARISC: true,
	specs.ArchPARISC64: true, specs.ArchRISCV64: true, specs.ArchLOONGARCH64: true, specs.ArchM68K: true,
	specs.ArchSH: true, specs.ArchSHEB: true,
}

// tableX32 are the calls for which x32 has numbers of its own.
const tableX32 = `rt_sigaction 512 rt_sigreturn 513 ioctl 514 readv 515 writev 516 recvfrom 517
sendmsg 518 recvmsg 519 execve 520 ptrace 521 rt_sigpending 522 rt_sigtimedwait 523
rt_sigqueueinfo 524 sigaltstack 525 timer_create 526 mq_notify 527 kexec_load 528 waitid 529
set_robust_list 530 get_robust_list 531 vmsplice 532 move_pages 533 preadv 534 pwritev 535
rt_tgsigqueueinfo 536 recvmmsg 537 sendmmsg 538 process_vm_readv 539 process_vm_writev 540
setsockopt 541 getsockopt 542 io_setup 543 io_submit 544 execveat 545 preadv2 546 pwritev2 547`

// tableARMPrivate are the calls outside of ARM's table (__ARM_NR_BASE).
const tableARMPrivate = `breakpoint 983041 cacheflush 983042 usr26 983043 usr32 983044 set_tls 983045`

// numbers returns the architecture's calls by name, without its bit.
func (a *arch) numbers() map[string]uint32 {
	m := make(map[string]uint32, 512)
	for _, table := range []string{a.table, a.more} {
		f := strings.Fields(table)
		for i := 0; i+1 < len(f); i += 2 {
			n, err := strconv.ParseUint(f[i+1], 10, 32)
			if err == nil {
				m[f[i]] = uint32(n)
			}
		}
	}
	return m
}

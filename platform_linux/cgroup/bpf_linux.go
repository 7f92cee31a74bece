package cgroup

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The program that decides about one access to a device. The kernel gives it a
// struct bpf_cgroup_dev_ctx of three words: access_type (bits of access in the
// upper half, kind in the lower), major, minor; it answers 1 to allow, 0 to deny.
//
// Rules are tried from the last to the first. A register holds the access bits
// that no later rule spoke of yet; an allowing rule takes its bits away, and
// none left means allowed; a denying rule that meets one of them means denied.
// So "allow r" and "allow w" together allow "rw", and a later "deny m" leaves
// both. Nothing left to try means denied.

// insn is struct bpf_insn.
type insn struct {
	op   uint8
	regs uint8 // destination in the low half, source in the high
	off  int16
	imm  int32
}

const (
	regResult = 0
	regCtx    = 1
	regKind   = 2
	regRest   = 3 // access bits not yet decided
	regMajor  = 4
	regMinor  = 5
	regTmp    = 6
)

// Operations that the program needs, from linux/bpf.h and linux/bpf_common.h.
const (
	opLoadWord    = unix.BPF_LDX | unix.BPF_W | unix.BPF_MEM
	opMoveReg     = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	opMoveImm     = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	opAndImm      = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opShiftImm    = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	opJumpNeq     = unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K
	opJumpEq      = unix.BPF_JMP32 | unix.BPF_JEQ | unix.BPF_K
	opExit        = unix.BPF_JMP | unix.BPF_EXIT
	ctxAccessType = 0
	ctxMajor      = 4
	ctxMinor      = 8
)

var kindCodes = map[byte]int32{'b': unix.BPF_DEVCG_DEV_BLOCK, 'c': unix.BPF_DEVCG_DEV_CHAR}

// compileDevices makes the program for rules.
func compileDevices(rules []deviceRule) []insn {
	p := []insn{
		{op: opLoadWord, regs: regKind | regCtx<<4, off: ctxAccessType},
		{op: opMoveReg, regs: regRest | regKind<<4},
		{op: opAndImm, regs: regKind, imm: 0xffff},
		{op: opShiftImm, regs: regRest, imm: 16},
		{op: opLoadWord, regs: regMajor | regCtx<<4, off: ctxMajor},
		{op: opLoadWord, regs: regMinor | regCtx<<4, off: ctxMinor},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		r := rules[i]
		body := decide(r)
		var guards []insn
		for _, g := range []struct {
			use  bool
			reg  uint8
			want int32
		}{
			{r.kind != 'a', regKind, kindCodes[r.kind]},
			{r.major != anyNumber, regMajor, int32(uint32(r.major))},
			{r.minor != anyNumber, regMinor, int32(uint32(r.minor))},
		} {
			if g.use {
				guards = append(guards, insn{op: opJumpNeq, regs: g.reg, imm: g.want})
			}
		}
		// A guard that does not match jumps behind the body.
		for n := range guards {
			guards[n].off = int16(len(guards) - n - 1 + len(body))
		}
		p = append(append(p, guards...), body...)
		if len(guards) == 0 && r.access == accessAll {
			break // It decides every access: what was said earlier is void.
		}
	}
	return append(p, insn{op: opMoveImm, regs: regResult, imm: 0}, insn{op: opExit})
}

// decide is what a rule does once kind and numbers match.
func decide(r deviceRule) []insn {
	if r.allow {
		return []insn{
			{op: opAndImm, regs: regRest, imm: int32(^r.access & accessAll)},
			{op: opJumpNeq, regs: regRest, imm: 0, off: 2},
			{op: opMoveImm, regs: regResult, imm: 1},
			{op: opExit},
		}
	}
	return []insn{
		{op: opMoveReg, regs: regTmp | regRest<<4},
		{op: opAndImm, regs: regTmp, imm: int32(r.access)},
		{op: opJumpEq, regs: regTmp, imm: 0, off: 2},
		{op: opMoveImm, regs: regResult, imm: 0},
		{op: opExit},
	}
}

// attachDeviceProgram makes the rules hold for the group at dir. The program
// lives as long as the group. On a change the new one is attached before the
// old ones go, so that no moment is without rules (programs are ANDed).
func attachDeviceProgram(dir string, rules []deviceRule, fresh bool) error {
	group, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", dir, err)
	}
	defer unix.Close(group)
	var old []uint32
	if !fresh {
		if old, err = devicePrograms(group); err != nil {
			return err
		}
	}
	code := compileDevices(rules)
	var prog int
	if len(old) == 0 {
		// A group takes a program once, so only one without can have what others have.
		lastProgram.Lock()
		defer lastProgram.Unlock()
		prog, err = lastProgram.load(code)
	} else if prog, err = loadDeviceProgram(code); err == nil {
		defer unix.Close(prog)
	}
	if err != nil {
		return err
	}
	attach := struct {
		target, prog, kind, flags, replace uint32
	}{uint32(group), uint32(prog), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI, 0}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), unsafe.Sizeof(attach)); err != nil {
		return fmt.Errorf("attach device rules to cgroup %s: %w", dir, err)
	}
	for _, id := range old {
		byID := struct{ id, next, flags uint32 }{id: id}
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&byID), unsafe.Sizeof(byID))
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("replace device rules of cgroup %s: %w", dir, err)
		}
		detach := struct{ target, prog, kind, flags uint32 }{uint32(group), uint32(fd), unix.BPF_CGROUP_DEVICE, 0}
		_, err = bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&detach), unsafe.Sizeof(detach))
		_ = unix.Close(fd)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("replace device rules of cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// lastProgram is the one that was loaded last, which nearly all groups share: the
// kernel takes its time to verify one.
var lastProgram sharedProgram

type sharedProgram struct {
	sync.Mutex
	code []insn
	fd   int
}

func (p *sharedProgram) load(code []insn) (int, error) {
	if p.code != nil && slices.Equal(p.code, code) {
		return p.fd, nil
	}
	fd, err := loadDeviceProgram(code)
	if err != nil {
		return -1, err
	}
	if p.code != nil {
		_ = unix.Close(p.fd)
	}
	p.code, p.fd = code, fd
	return fd, nil
}

// loadDeviceProgram hands a program to the kernel. Without its log, since that
// costs memory; a refused program is a bug that the unit tests must find.
func loadDeviceProgram(p []insn) (int, error) {
	license := []byte("Apache-2.0\x00")
	load := struct {
		kind, count    uint32
		insns, license uint64
		logLevel       uint32
		logSize        uint32
		log            uint64
		version, flags uint32
		name           [16]byte
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(p)),
		insns: uint64(uintptr(unsafe.Pointer(&p[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	copy(load.name[:], "caisson_devices")
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	runtime.KeepAlive(p)
	runtime.KeepAlive(license)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return -1, fmt.Errorf("device rules cannot be enforced: BPF programs are not available here: %w (%w)", err, errdefs.ErrUnavailable)
	}
	if err != nil {
		return -1, fmt.Errorf("load device rules: %w", err)
	}
	return fd, nil
}

// devicePrograms lists the ids of the programs attached to exactly this group.
func devicePrograms(group int) ([]uint32, error) {
	ids := make([]uint32, 64)
	query := struct {
		target, kind, flags, attachFlags uint32
		ids                              uint64
		count                            uint32
		_                                uint32
	}{target: uint32(group), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: uint32(len(ids))}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query))
	runtime.KeepAlive(ids)
	if err != nil {
		return nil, fmt.Errorf("list device rules: %w", err)
	}
	return ids[:query.count], nil
}

func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return -1, errno
		}
	}
}

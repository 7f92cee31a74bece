package seccomp

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd/errdefs"
)

// Seccomp return values (linux/seccomp.h); the low 16 bits carry data.
const (
	retKillProcess = 0x80000000
	retKillThread  = 0x00000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000
)

const (
	eperm  = 1
	enosys = 38
	// maxErrno is what fits the low bits; the kernel caps errno at MAX_ERRNO.
	maxErrno = 4095
)

var actions = map[specs.LinuxSeccompAction]uint32{
	specs.ActKill: retKillThread, specs.ActKillThread: retKillThread, specs.ActKillProcess: retKillProcess,
	specs.ActTrap: retTrap, specs.ActErrno: retErrno, specs.ActTrace: retTrace,
	specs.ActLog: retLog, specs.ActAllow: retAllow,
}

// flagBits are the flags that make sense without a listener.
var flagBits = map[specs.LinuxSeccompFlag]uint64{
	specs.LinuxSeccompFlagLog:       1 << 1,
	specs.LinuxSeccompFlagSpecAllow: 1 << 2,
}

// Filter is a compiled program: struct sock_filter instructions in the byte
// order of amd64 and arm64, and the flags to load it with.
type Filter struct {
	Program []byte
	Flags   uint64
}

// maxInstructions is the kernel's BPF_MAXINSNS.
const maxInstructions = 4096

// Compile compiles a profile for a kernel of GOARCH goarch. Errors:
// InvalidArgument (the profile), NotImplemented (notifications, or goarch).
func Compile(s *specs.LinuxSeccomp, goarch string) (*Filter, error) {
	own, ok := native[goarch]
	if !ok {
		return nil, fmt.Errorf("seccomp on %s: %w", goarch, errdefs.ErrNotImplemented)
	}
	if s.ListenerPath != "" || s.DefaultAction == specs.ActNotify {
		return nil, fmt.Errorf("seccomp notifications to a listener: %w", errdefs.ErrNotImplemented)
	}
	f := &Filter{}
	for _, flag := range s.Flags {
		bit, ok := flagBits[flag]
		if !ok {
			return nil, fmt.Errorf("seccomp flag %q: %w", flag, errdefs.ErrInvalidArgument)
		}
		f.Flags |= bit
	}
	fallback, err := action(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	wanted := map[specs.Arch]bool{own: true}
	for _, a := range s.Architectures {
		if !foreign[a] && !slices.ContainsFunc(archs, func(k arch) bool { return k.name == a }) {
			return nil, fmt.Errorf("seccomp architecture %q: %w", a, errdefs.ErrInvalidArgument)
		}
		wanted[a] = true
	}
	var code program
	code.loadArch()
	// The native architecture first: it is the one that is called.
	for _, audit := range auditOrder(own) {
		var ranges []span
		for i := range archs {
			a := &archs[i]
			if a.audit == audit && wanted[a.name] {
				r, err := a.spans(s, fallback)
				if err != nil {
					return nil, err
				}
				ranges = append(ranges, r...)
			}
		}
		if ranges != nil {
			code.section(audit, fill(ranges, fallback))
		}
	}
	code.ret(retKillProcess)
	if len(code.ins) > maxInstructions {
		return nil, fmt.Errorf("the seccomp profile makes %d instructions, the kernel takes %d: %w", len(code.ins), maxInstructions, errdefs.ErrInvalidArgument)
	}
	f.Program = code.bytes()
	return f, nil
}

// auditOrder lists the audit numbers of all architectures, that of own first.
func auditOrder(own specs.Arch) []uint32 {
	var list []uint32
	for _, a := range archs {
		switch {
		case a.name == own:
			list = slices.Insert(list, 0, a.audit)
		case !slices.Contains(list, a.audit):
			list = append(list, a.audit)
		}
	}
	return slices.Compact(list)
}

func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	ret, ok := actions[a]
	if !ok {
		if a == specs.ActNotify {
			return 0, fmt.Errorf("seccomp notifications: %w", errdefs.ErrNotImplemented)
		}
		return 0, fmt.Errorf("seccomp action %q: %w", a, errdefs.ErrInvalidArgument)
	}
	if ret != retErrno && ret != retTrace {
		return ret, nil
	}
	data := uint(eperm)
	if errno != nil {
		data = *errno
	}
	if ret == retErrno && data > maxErrno || data > 0xffff {
		return 0, fmt.Errorf("seccomp errno %d: %w", data, errdefs.ErrInvalidArgument)
	}
	return ret | uint32(data), nil
}

// verdict is what happens to one system call: the first of the rules whose
// conditions all hold decides, else otherwise.
type verdict struct {
	rules     []rule
	otherwise uint32
}

type rule struct {
	conds []cond
	ret   uint32
}

// cond compares an argument: (arg & mask) op value; mask is all ones but for
// SCMP_CMP_MASKED_EQ.
type cond struct {
	arg         uint32
	op          specs.LinuxSeccompOperator
	value, mask uint64
	narrow      bool
}

// span is a range of numbers with one verdict.
type span struct {
	first, last uint32
	verdict     *verdict
}

// spans are the architecture's calls that the profile treats otherwise than by
// default, and, last, the range of those that it cannot know.
func (a *arch) spans(s *specs.LinuxSeccomp, fallback uint32) ([]span, error) {
	numbers := a.numbers()
	verdicts := map[uint32]*verdict{}
	plain := map[uint32]bool{}
	var newest uint32
	for i := range s.Syscalls {
		call := &s.Syscalls[i]
		ret, err := action(call.Action, call.ErrnoRet)
		if err != nil {
			return nil, err
		}
		rules, err := a.rules(call, ret)
		if err != nil {
			return nil, err
		}
		for _, name := range call.Names {
			n, ok := numbers[name]
			if !ok {
				continue // of another architecture, or of a kernel to come
			}
			newest = max(newest, n)
			if ret == fallback {
				continue
			}
			v := verdicts[n]
			if v == nil {
				v = &verdict{otherwise: fallback}
				verdicts[n] = v
			}
			switch {
			case len(call.Args) > 0:
				if !plain[n] {
					v.rules = append(v.rules, rules...)
				}
			case !plain[n] || stricter(ret, v.otherwise):
				plain[n] = true
				v.rules, v.otherwise = nil, ret
			}
		}
	}
	var list []span
	for _, n := range slices.Sorted(maps.Keys(verdicts)) {
		v := verdicts[n]
		slices.SortStableFunc(v.rules, func(x, y rule) int { return cmp.Compare(int32(x.ret), int32(y.ret)) })
		list = append(list, span{a.bit | n, a.bit | n, v})
	}
	end := uint32(x32Bit - 1)
	if a.bit != 0 || a.narrow {
		end = 0xfffffffe // -1 is what a tracer makes of a call that it skips
	}
	if unknown := newer(fallback); unknown != fallback && newest > 0 {
		list = append(list, span{a.bit | (newest + 1), end, &verdict{otherwise: unknown}})
	}
	if a.name == specs.ArchX86_64 && !slices.Contains(s.Architectures, specs.ArchX32) {
		list = append(list, span{x32Bit, 0xfffffffe, &verdict{otherwise: retKillProcess}})
	}
	return list, nil
}

// newer is what happens to calls newer than all that the profile names.
func newer(fallback uint32) uint32 {
	if fallback == retAllow || fallback == retLog || fallback&0xffff0000 == retTrace {
		return fallback
	}
	return retErrno | enosys
}

// stricter orders actions as the kernel does.
func stricter(a, b uint32) bool { return int32(a&0xffff0000) < int32(b&0xffff0000) }

// rules are the alternatives that one OCI rule with conditions stands for.
func (a *arch) rules(call *specs.LinuxSyscall, ret uint32) ([]rule, error) {
	var conds []cond
	seen := map[uint]bool{}
	alternatives := false
	for _, arg := range call.Args {
		if arg.Index > 5 {
			return nil, fmt.Errorf("seccomp argument %d of %v: %w", arg.Index, call.Names, errdefs.ErrInvalidArgument)
		}
		if _, ok := operators[arg.Op]; !ok {
			return nil, fmt.Errorf("seccomp operator %q: %w", arg.Op, errdefs.ErrInvalidArgument)
		}
		c := cond{arg: uint32(arg.Index), op: arg.Op, value: arg.Value, mask: ^uint64(0), narrow: a.narrow}
		if arg.Op == specs.OpMaskedEqual {
			c.mask, c.value = arg.Value, arg.ValueTwo
		}
		alternatives = alternatives || seen[arg.Index]
		seen[arg.Index] = true
		conds = append(conds, c)
	}
	if !alternatives {
		return []rule{{conds, ret}}, nil
	}
	var list []rule
	for _, c := range conds {
		list = append(list, rule{[]cond{c}, ret})
	}
	return list, nil
}

// fill sorts spans, fills the gaps between them with the default, and joins
// neighbours of the same plain action, so that they cover all numbers.
func fill(list []span, fallback uint32) []span {
	slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	var out []span
	add := func(s span) {
		if n := len(out); n > 0 && same(out[n-1].verdict, s.verdict) {
			out[n-1].last = s.last
			return
		}
		out = append(out, s)
	}
	gap := &verdict{otherwise: fallback}
	next := uint64(0)
	for _, s := range list {
		if uint64(s.first) > next {
			add(span{uint32(next), s.first - 1, gap})
		}
		add(s)
		next = uint64(s.last) + 1
	}
	if next <= 0xffffffff {
		add(span{uint32(next), 0xffffffff, gap})
	}
	return out
}

func same(a, b *verdict) bool {
	return len(a.rules) == 0 && len(b.rules) == 0 && a.otherwise == b.otherwise
}

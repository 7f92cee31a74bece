package seccomp

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"

	"github.com/containerd/errdefs"
)

// machine runs a filter as the kernel does.
type machine struct {
	t  testing.TB
	vm *bpf.VM
}

func load(t testing.TB, s *specs.LinuxSeccomp) machine {
	t.Helper()
	f, err := Compile(s, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	var ins []bpf.Instruction
	for p := f.Program; len(p) > 0; p = p[8:] {
		raw := bpf.RawInstruction{Op: binary.LittleEndian.Uint16(p), Jt: p[2], Jf: p[3], K: binary.LittleEndian.Uint32(p[4:])}
		ins = append(ins, raw.Disassemble())
	}
	vm, err := bpf.NewVM(ins)
	if err != nil {
		t.Fatal(err)
	}
	return machine{t, vm}
}

// call returns what the filter answers. The VM is one of packets and loads words
// in network order, so that is how they are laid out here.
func (m machine) call(audit, nr uint32, args ...uint64) uint32 {
	m.t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data, nr)
	binary.BigEndian.PutUint32(data[4:], audit)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[20+8*i:], uint32(a>>32))
	}
	ret, err := m.vm.Run(data)
	if err != nil {
		m.t.Fatal(err)
	}
	return uint32(ret)
}

const (
	auditX8664 = 0xc000003e
	auditX86   = 0x40000003
)

func uintp(u uint) *uint { return &u }

func allowing(names ...string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		Syscalls:      []specs.LinuxSyscall{{Names: names, Action: specs.ActAllow}},
	}
}

func TestArchitectures(t *testing.T) {
	m := load(t, allowing("read", "mseal"))
	only := allowing("read")
	only.Architectures = nil
	n := load(t, only)
	for _, c := range []struct {
		what      string
		m         machine
		audit, nr uint32
		want      uint32
	}{
		{"named", m, auditX8664, 0, retAllow},
		{"not named", m, auditX8664, 1, retErrno | eperm},
		{"the last named", m, auditX8664, 462, retAllow},
		{"newer than all", m, auditX8664, 463, retErrno | enosys},
		{"skipped by a tracer", m, auditX8664, 0xffffffff, retErrno | eperm},
		{"x86 has other numbers", m, auditX86, 3, retAllow},
		{"x86 not named", m, auditX86, 0, retErrno | eperm},
		{"x32", m, auditX8664, x32Bit, retAllow},
		{"x32 not named", m, auditX8664, x32Bit | 1, retErrno | eperm},
		{"another machine's", m, 0xc00000b7, 63, retKillProcess},
		{"x32 not allowed", n, auditX8664, x32Bit, retKillProcess},
		{"x86 not allowed", n, auditX86, 3, retKillProcess},
		{"native always is", n, auditX8664, 0, retAllow},
	} {
		if got := c.m.call(c.audit, c.nr); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.what, got, c.want)
		}
	}
}

func TestActions(t *testing.T) {
	s := allowing("read")
	s.Syscalls = append(s.Syscalls,
		specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActErrno, ErrnoRet: uintp(77)},
		specs.LinuxSyscall{Names: []string{"open"}, Action: specs.ActKillProcess},
		specs.LinuxSyscall{Names: []string{"close"}, Action: specs.ActKill},
		specs.LinuxSyscall{Names: []string{"stat"}, Action: specs.ActTrap},
		specs.LinuxSyscall{Names: []string{"fstat"}, Action: specs.ActLog},
		specs.LinuxSyscall{Names: []string{"lstat"}, Action: specs.ActTrace, ErrnoRet: uintp(5)},
		// Without conditions wins, in either order; the stricter of two does.
		specs.LinuxSyscall{Names: []string{"poll"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 1, Op: specs.OpEqualTo}}},
		specs.LinuxSyscall{Names: []string{"poll"}, Action: specs.ActKillProcess},
		specs.LinuxSyscall{Names: []string{"lseek"}, Action: specs.ActKillProcess},
		specs.LinuxSyscall{Names: []string{"lseek"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 1, Op: specs.OpEqualTo}}},
		specs.LinuxSyscall{Names: []string{"mmap"}, Action: specs.ActAllow},
		specs.LinuxSyscall{Names: []string{"mmap"}, Action: specs.ActTrap},
	)
	m := load(t, s)
	for nr, want := range map[uint32]uint32{
		1: retErrno | 77, 2: retKillProcess, 3: retKillThread, 4: retTrap, 5: retLog, 6: retTrace | 5,
		7: retKillProcess, 8: retKillProcess, 9: retTrap, 10: retErrno | enosys,
	} {
		if got := m.call(auditX8664, nr, 1); got != want {
			t.Errorf("call %d: %#x, want %#x", nr, got, want)
		}
	}
}

// TestConditions compares each operator with Go's own on values around the
// borders of the words.
func TestConditions(t *testing.T) {
	holds := map[specs.LinuxSeccompOperator]func(a, v, w uint64) bool{
		specs.OpEqualTo:      func(a, v, _ uint64) bool { return a == v },
		specs.OpNotEqual:     func(a, v, _ uint64) bool { return a != v },
		specs.OpLessThan:     func(a, v, _ uint64) bool { return a < v },
		specs.OpLessEqual:    func(a, v, _ uint64) bool { return a <= v },
		specs.OpGreaterThan:  func(a, v, _ uint64) bool { return a > v },
		specs.OpGreaterEqual: func(a, v, _ uint64) bool { return a >= v },
		specs.OpMaskedEqual:  func(a, v, w uint64) bool { return a&v == w },
	}
	if len(holds) != len(operators) {
		t.Fatal("an operator is not tested")
	}
	values := []uint64{0, 1, 2, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 2 << 32, 5<<32 | 7, 1<<63 - 1, 1 << 63, 1<<64 - 1}
	for range 8 {
		values = append(values, rand.Uint64())
	}
	for op, want := range holds {
		for _, v := range values {
			s := allowing("read")
			arg := specs.LinuxSeccompArg{Index: 3, Value: v, Op: op}
			if op == specs.OpMaskedEqual {
				arg.ValueTwo = v & 0xf0f0f0f0f0f0f0f0
			}
			s.Syscalls[0].Args = []specs.LinuxSeccompArg{arg}
			m := load(t, s)
			for _, a := range values {
				got := m.call(auditX8664, 0, 1, 2, 3, a) == retAllow
				if got != want(a, v, arg.ValueTwo) {
					t.Errorf("%#x %s %#x (%#x): %v", a, op, v, arg.ValueTwo, got)
				}
				if v < 1<<32 {
					if got := m.call(auditX86, 3, 1, 2, 3, uint64(uint32(a))) == retAllow; got != want(uint64(uint32(a)), v, arg.ValueTwo) {
						t.Errorf("x86: %#x %s %#x: %v", uint32(a), op, v, got)
					}
				}
			}
		}
	}
}

func TestSeveralConditions(t *testing.T) {
	eq := func(i uint, v uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Value: v, Op: specs.OpEqualTo}
	}
	s := allowing()
	s.Syscalls = []specs.LinuxSyscall{
		{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{eq(0, 1), eq(1, 2)}},
		{Names: []string{"write"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{eq(0, 1), eq(0, 2)}},
		{Names: []string{"open"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{eq(0, 1)}},
		{Names: []string{"open"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{eq(0, 2)}},
	}
	m := load(t, s)
	for _, c := range []struct {
		nr   uint32
		a, b uint64
		want bool
	}{
		{0, 1, 2, true}, {0, 1, 1, false}, {0, 2, 2, false},
		{1, 1, 9, true}, {1, 2, 9, true}, {1, 3, 9, false},
		{2, 1, 0, true}, {2, 2, 0, true}, {2, 3, 0, false},
	} {
		if got := m.call(auditX8664, c.nr, c.a, c.b) == retAllow; got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestRefused(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*specs.LinuxSeccomp)
		kind   error
	}{
		"action":       {func(s *specs.LinuxSeccomp) { s.DefaultAction = "SCMP_ACT_DANCE" }, errdefs.ErrInvalidArgument},
		"architecture": {func(s *specs.LinuxSeccomp) { s.Architectures = []specs.Arch{"SCMP_ARCH_Z80"} }, errdefs.ErrInvalidArgument},
		"flag":         {func(s *specs.LinuxSeccomp) { s.Flags = []specs.LinuxSeccompFlag{"X"} }, errdefs.ErrInvalidArgument},
		"listener":     {func(s *specs.LinuxSeccomp) { s.ListenerPath = "/x" }, errdefs.ErrNotImplemented},
		"notify":       {func(s *specs.LinuxSeccomp) { s.Syscalls[0].Action = specs.ActNotify }, errdefs.ErrNotImplemented},
		"errno":        {func(s *specs.LinuxSeccomp) { s.DefaultErrnoRet = uintp(5000) }, errdefs.ErrInvalidArgument},
		"argument": {func(s *specs.LinuxSeccomp) {
			s.Syscalls[0].Args = []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}
		}, errdefs.ErrInvalidArgument},
		"operator": {func(s *specs.LinuxSeccomp) {
			s.Syscalls[0].Args = []specs.LinuxSeccompArg{{Op: "~"}}
		}, errdefs.ErrInvalidArgument},
	} {
		s := allowing("read")
		c.change(s)
		if _, err := Compile(s, "amd64"); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", what, err, c.kind)
		}
	}
	if _, err := Compile(allowing("read"), "pdp11"); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("pdp11: %v", err)
	}
}

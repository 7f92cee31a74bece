package cgroup

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allowed is what the rules mean, said without a program: each access bit is
// decided by the last rule that matches the device and names the bit.
func allowed(rules []deviceRule, kind byte, major, minor int64, access uint32) bool {
	for _, bit := range []uint32{accessMknod, accessRead, accessWrite} {
		if access&bit == 0 {
			continue
		}
		ok := false
		for _, r := range rules {
			if (r.kind == 'a' || r.kind == kind) && (r.major == anyNumber || r.major == major) &&
				(r.minor == anyNumber || r.minor == minor) && r.access&bit != 0 {
				ok = r.allow
			}
		}
		if !ok {
			return false
		}
	}
	return true
}

// run interprets the few operations that programs are made of.
func run(t *testing.T, p []insn, kind byte, major, minor int64, access uint32) bool {
	t.Helper()
	ctx := map[int16]uint64{ctxAccessType: uint64(access)<<16 | uint64(kindCodes[kind]), ctxMajor: uint64(major), ctxMinor: uint64(minor)}
	var reg [10]uint64
	for pc := 0; pc < len(p); pc++ {
		i := p[pc]
		dst, src := i.regs&15, i.regs>>4
		switch i.op {
		case opLoadWord:
			reg[dst] = ctx[i.off]
		case opMoveReg:
			reg[dst] = reg[src]
		case opMoveImm:
			reg[dst] = uint64(i.imm)
		case opAndImm:
			reg[dst] = uint64(uint32(reg[dst]) & uint32(i.imm))
		case opShiftImm:
			reg[dst] = uint64(uint32(reg[dst]) >> i.imm)
		case opJumpNeq:
			if uint32(reg[dst]) != uint32(i.imm) {
				pc += int(i.off)
			}
		case opJumpEq:
			if uint32(reg[dst]) == uint32(i.imm) {
				pc += int(i.off)
			}
		case opExit:
			return reg[regResult] == 1
		default:
			t.Fatalf("operation %#x", i.op)
		}
	}
	t.Fatal("the program runs over its end")
	return false
}

func randomRules(r *rand.Rand) []deviceRule {
	rules := make([]deviceRule, r.IntN(8))
	for i := range rules {
		rules[i] = deviceRule{
			allow: r.IntN(2) == 0, kind: "abc"[r.IntN(3)],
			major: int64(r.IntN(4)) - 1, minor: int64(r.IntN(4)) - 1, access: uint32(1 + r.IntN(accessAll)),
		}
	}
	return rules
}

// TestCompileDevices compares programs with the meaning of their rules, for
// random rules and every access they can tell apart.
func TestCompileDevices(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		rules := randomRules(r)
		p := compileDevices(rules)
		for _, kind := range []byte("bc") {
			for major := range int64(4) {
				for minor := range int64(4) {
					for access := uint32(1); access <= accessAll; access++ {
						want := allowed(rules, kind, major, minor, access)
						if got := run(t, p, kind, major, minor, access); got != want {
							t.Fatalf("%+v: %c %d:%d access %d: got %v, want %v", rules, kind, major, minor, access, got, want)
						}
					}
				}
			}
		}
	}
}

func TestParseDeviceRules(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	rules, err := parseDeviceRules([]specs.LinuxDeviceCgroup{
		{Access: "rwm"}, {Allow: true, Type: "c", Major: n(1), Minor: n(3), Access: "rwm"}, {Allow: true, Type: "b", Major: n(8), Access: "r"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range rules {
		lines = append(lines, r.line())
	}
	if want := []string{"a *:* rwm", "c 1:3 rwm", "b 8:* r"}; !slices.Equal(lines, want) {
		t.Errorf("got %q, want %q", lines, want)
	}
	for _, bad := range []specs.LinuxDeviceCgroup{{Type: "x"}, {Access: "q"}, {Major: n(-2)}, {Minor: n(1 << 40)}} {
		if _, err := parseDeviceRules([]specs.LinuxDeviceCgroup{bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestVerifier lets the kernel check what the compiler makes.
func TestVerifier(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 50 {
		rules := randomRules(r)
		if i == 0 {
			rules = nil
		}
		fd, err := loadDeviceProgram(compileDevices(rules))
		if errdefs.IsUnavailable(err) {
			t.Skip("needs device programs of cgroup v2: " + err.Error())
		}
		if err != nil {
			t.Fatalf("%+v: %v", rules, err)
		}
		_ = unix.Close(fd)
	}
}

// Groups with equal rules share a program; a change and its return leave each with
// exactly one.
func TestSharedProgram(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: attaches BPF programs")
	}
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	if h.unified == "" {
		t.Skip("needs a cgroup v2 hierarchy")
	}
	rules := []deviceRule{{kind: 'a', major: anyNumber, minor: anyNumber, access: accessAll}}
	other := []deviceRule{{allow: true, kind: 'c', major: 1, minor: 3, access: accessAll}}
	programs := func(dir string) []uint32 {
		fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		ids, err := devicePrograms(fd)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	attach := func(dir string, rules []deviceRule, fresh bool) uint32 {
		t.Helper()
		err := attachDeviceProgram(dir, rules, fresh)
		if errdefs.IsUnavailable(err) {
			t.Skip("needs device programs of cgroup v2: " + err.Error())
		}
		if err != nil {
			t.Fatal(err)
		}
		ids := programs(dir)
		if len(ids) != 1 {
			t.Fatalf("%d programs, want one", len(ids))
		}
		return ids[0]
	}
	var dirs [2]string
	for i := range dirs {
		dirs[i] = filepath.Join(h.unified, fmt.Sprintf("caisson-test-%d-%d", os.Getpid(), i))
		if err := os.Mkdir(dirs[i], 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(dirs[i])
	}
	first := attach(dirs[0], rules, true)
	if got := attach(dirs[1], rules, true); got != first {
		t.Errorf("programs %d and %d for equal rules", first, got)
	}
	attach(dirs[1], other, false)
	attach(dirs[1], rules, false)
	if got := programs(dirs[0]); len(got) != 1 || got[0] != first {
		t.Errorf("the other group has %v, want %d", got, first)
	}
}

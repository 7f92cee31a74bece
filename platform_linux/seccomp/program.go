package seccomp

import (
	"encoding/binary"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// instruction is struct sock_filter.
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// Codes of the instructions used (linux/bpf_common.h).
const (
	opLoad   = 0x20 // BPF_LD|BPF_W|BPF_ABS
	opAnd    = 0x54 // BPF_ALU|BPF_AND|BPF_K
	opJump   = 0x05 // BPF_JMP|BPF_JA
	opIfEq   = 0x15 // BPF_JMP|BPF_JEQ|BPF_K
	opIfGt   = 0x25 // BPF_JMP|BPF_JGT|BPF_K
	opIfGe   = 0x35 // BPF_JMP|BPF_JGE|BPF_K
	opReturn = 0x06 // BPF_RET|BPF_K
)

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// program is being written from its first instruction on; jumps are patched when
// their target is known.
type program struct{ ins []instruction }

func (p *program) emit(code uint16, k uint32) int {
	p.ins = append(p.ins, instruction{code: code, k: k})
	return len(p.ins) - 1
}

func (p *program) ret(k uint32) { p.emit(opReturn, k) }
func (p *program) loadArch()    { p.emit(opLoad, offArch) }

// jump emits a jump to be aimed.
func (p *program) jump() int { return p.emit(opJump, 0) }

// aim lets a jump go to the next instruction to be emitted.
func (p *program) aim(at int) { p.ins[at].k = uint32(len(p.ins) - at - 1) }

// unless emits a comparison that goes on if it holds, and else comes to the
// jump that it returns, to be aimed. A jump of its own, because a comparison's
// reaches only 255 instructions.
func (p *program) unless(code uint16, k uint32) int {
	at := p.emit(code, k)
	p.ins[at].jt = 1
	return p.jump()
}

// section emits what happens to one architecture's calls.
func (p *program) section(audit uint32, list []span) {
	other := p.unless(opIfEq, audit)
	p.emit(opLoad, offNumber)
	p.search(list)
	p.aim(other)
}

// search emits a binary search; the number is in the accumulator.
func (p *program) search(list []span) {
	if len(list) == 1 {
		p.verdict(list[0].verdict)
		return
	}
	half := len(list) / 2
	at := p.emit(opIfGe, list[half].first)
	long := -1
	start := len(p.ins)
	mark := start
	if p.size(list[:half]) > 255 {
		p.ins[at].jf = 1
		long = p.jump()
		mark = len(p.ins)
	}
	p.search(list[:half])
	if long >= 0 {
		p.aim(long)
	} else {
		p.ins[at].jt = uint8(len(p.ins) - mark)
	}
	p.search(list[half:])
}

// size is how many instructions search makes of a list, or more than 255.
func (p *program) size(list []span) int {
	var q program
	q.search(list)
	return len(q.ins)
}

// verdict emits the end of a search.
func (p *program) verdict(v *verdict) {
	for i := range v.rules {
		var misses []int
		for _, c := range v.rules[i].conds {
			misses = append(misses, p.cond(c)...)
		}
		p.ret(v.rules[i].ret)
		for _, m := range misses {
			p.aim(m)
		}
	}
	p.ret(v.otherwise)
}

// operators tell how a 64-bit comparison is made of 32-bit ones. With the high
// words equal the low words decide by low; else the high words do by high,
// which 0 says is a miss. negate turns the outcome.
var operators = map[specs.LinuxSeccompOperator]struct {
	low, high uint16
	negate    bool
}{
	specs.OpEqualTo:      {low: opIfEq},
	specs.OpMaskedEqual:  {low: opIfEq},
	specs.OpNotEqual:     {low: opIfEq, negate: true},
	specs.OpGreaterThan:  {low: opIfGt, high: opIfGt},
	specs.OpGreaterEqual: {low: opIfGe, high: opIfGt},
	specs.OpLessEqual:    {low: opIfGt, high: opIfGt, negate: true},
	specs.OpLessThan:     {low: opIfGe, high: opIfGt, negate: true},
}

// cond emits a comparison that goes on if c holds, and returns the jumps, to be
// aimed, that are taken if it does not.
func (p *program) cond(c cond) []int {
	o := operators[c.op]
	var holds, fails []int
	if !c.narrow {
		p.load(offArgs+8*c.arg+4, uint32(c.mask>>32))
		hi := uint32(c.value >> 32)
		if o.high != 0 {
			// Above: it holds. Below: it fails.
			more := p.unless(o.high, hi)
			holds = append(holds, p.jump())
			p.aim(more)
		}
		fails = append(fails, p.unless(opIfEq, hi))
	}
	p.load(offArgs+8*c.arg, uint32(c.mask))
	fails = append(fails, p.unless(o.low, uint32(c.value)))
	if !o.negate {
		for _, h := range holds {
			p.aim(h)
		}
		return fails
	}
	holds = append(holds, p.jump())
	for _, f := range fails {
		p.aim(f)
	}
	return holds
}

func (p *program) load(offset, mask uint32) {
	p.emit(opLoad, offset)
	if mask != 0xffffffff {
		p.emit(opAnd, mask)
	}
}

func (p *program) bytes() []byte {
	out := make([]byte, 0, 8*len(p.ins))
	for _, i := range p.ins {
		out = binary.LittleEndian.AppendUint16(out, i.code)
		out = append(out, i.jt, i.jf)
		out = binary.LittleEndian.AppendUint32(out, i.k)
	}
	return out
}

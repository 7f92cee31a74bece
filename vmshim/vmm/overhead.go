package vmm

// overhead is the monitor's own memory: measured 19 MiB idle and 27 after work
// under emulation, of which translated code can grow to the size of its buffer.
func overhead(s Shape) int64 {
	const fixed = 64 << 20
	if s.Accel == TCG {
		return fixed + tcgBuffer
	}
	return fixed
}

// tcgBuffer bounds the translated code of an emulated guest.
const tcgBuffer = 128 << 20

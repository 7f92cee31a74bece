#include "textflag.h"

// func vfork(args *cloneArgs, size uintptr) (r1, errno uintptr)
//
// clone3 with CLONE_VM and CLONE_VFORK. The child runs on this very stack; our
// return address is in a register, of which each process has its own copy.
TEXT ·vfork(SB),NOSPLIT|NOFRAME,$0-32
	MOVD	args+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	$435, R8 // clone3
	SVC
	CMN	$4095, R0
	BCC	ok
	NEG	R0, R0
	MOVD	ZR, r1+16(FP)
	MOVD	R0, errno+24(FP)
	RET
ok:
	MOVD	R0, r1+16(FP)
	MOVD	ZR, errno+24(FP)
	RET

#include "textflag.h"

// func vfork(args *cloneArgs, size uintptr) (r1, errno uintptr)
//
// clone3 with CLONE_VM and CLONE_VFORK. The child runs on this very stack, and
// its calls overwrite our return address there, so that is kept in a register,
// of which each process has its own copy.
TEXT ·vfork(SB),NOSPLIT|NOFRAME,$0-32
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	$435, AX // clone3
	POPQ	R12
	SYSCALL
	PUSHQ	R12
	CMPQ	AX, $-4095
	JCC	failed
	MOVQ	AX, r1+16(FP)
	MOVQ	$0, errno+24(FP)
	RET
failed:
	NEGQ	AX
	MOVQ	$0, r1+16(FP)
	MOVQ	AX, errno+24(FP)
	RET

/* Raw system calls, one primitive and one clone per architecture.
 *
 * The child of a clone(CLONE_VM) shares the caller's memory, thread-local
 * storage included, so it must not go through libc: even a failing libc call
 * would write the parent's errno. Everything here returns the kernel's own
 * answer, a negative errno on failure, and touches no memory of its own.
 *
 * raw_clone() and raw_clone3() start `function(argument)` on the given stack in
 * the child and return the pid in the parent. RAW_ENTRY() is the first code of a
 * program: it calls a function with the stack pointer as its argument. What differs
 * between architectures is RAW_FRAME, the bytes on top of the stack in which a C function expects its
 * caller's frame, and the order of clone's arguments:
 *
 *   x86-64                    flags, stack, pidfd, tid, tls
 *   aarch64 riscv64 ppc64le   flags, stack, pidfd, tls, tid
 *   s390x                     stack, flags, pidfd, tid, tls
 */
#ifndef USERNSPROC_RAWSYS_H
#define USERNSPROC_RAWSYS_H

#include <stdint.h>

#include "compat.h"

typedef void child_function(void *argument);

#define RAW_INLINE static inline __attribute__((always_inline, unused))

#if defined(__x86_64__)

RAW_INLINE long raw_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

#define RAW_ENTRY(function) \
	"xor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall " function "\n\tud2\n"
#define RAW_FRAME 0
#define RAW_CLONE_ARGUMENTS(flags, stack, pidfd, tid) flags, stack, pidfd, tid, 0

RAW_INLINE long raw_start(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long result;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "pop %%rax\n\t"
			 "pop %%rdi\n\t"
			 "call *%%rax\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(result)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

#elif defined(__aarch64__)

RAW_INLINE long raw_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory", "cc");
	return x0;
}

#define RAW_ENTRY(function) "mov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tbl " function "\n\tbrk #1\n"
#define RAW_FRAME 0
#define RAW_CLONE_ARGUMENTS(flags, stack, pidfd, tid) flags, stack, pidfd, 0, tid

RAW_INLINE long raw_start(long nr, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc #0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x29, #0\n\t"
			 "mov x30, #0\n\t"
			 "ldp x16, x0, [sp], #16\n\t"
			 "blr x16\n\t"
			 "brk #1\n"
			 "1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
			 : "memory", "cc");
	return x0;
}

#elif defined(__riscv) && __riscv_xlen == 64

/* A system call loses the vector registers. */
#ifdef __riscv_vector
#define RAW_CLOBBERED                                                                             \
	"memory", "vl", "vtype", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", \
		"v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", \
		"v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31"
#else
#define RAW_CLOBBERED "memory"
#endif

RAW_INLINE long raw_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	register long a7 __asm__("a7") = nr;
	register long a0 __asm__("a0") = a;
	register long a1 __asm__("a1") = b;
	register long a2 __asm__("a2") = c;
	register long a3 __asm__("a3") = d;
	register long a4 __asm__("a4") = e;
	register long a5 __asm__("a5") = f;
	__asm__ volatile("ecall"
			 : "+r"(a0)
			 : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5)
			 : RAW_CLOBBERED);
	return a0;
}

#define RAW_ENTRY(function) "li s0, 0\n\tmv a0, sp\n\tandi sp, sp, -16\n\tjal " function "\n\tebreak\n"
#define RAW_FRAME 0
#define RAW_CLONE_ARGUMENTS(flags, stack, pidfd, tid) flags, stack, pidfd, 0, tid

RAW_INLINE long raw_start(long nr, long a, long b, long c, long d, long e)
{
	register long a7 __asm__("a7") = nr;
	register long a0 __asm__("a0") = a;
	register long a1 __asm__("a1") = b;
	register long a2 __asm__("a2") = c;
	register long a3 __asm__("a3") = d;
	register long a4 __asm__("a4") = e;
	__asm__ volatile("ecall\n\t"
			 "bnez a0, 1f\n\t"
			 "li s0, 0\n\t"
			 "ld a1, 0(sp)\n\t"
			 "ld a0, 8(sp)\n\t"
			 "addi sp, sp, 16\n\t"
			 "jalr a1\n\t"
			 "ebreak\n"
			 "1:"
			 : "+r"(a0)
			 : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4)
			 : RAW_CLOBBERED);
	return a0;
}

#elif defined(__s390x__)

RAW_INLINE long raw_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r1 __asm__("r1") = nr;
	register long r2 __asm__("r2") = a;
	register long r3 __asm__("r3") = b;
	register long r4 __asm__("r4") = c;
	register long r5 __asm__("r5") = d;
	register long r6 __asm__("r6") = e;
	register long r7 __asm__("r7") = f;
	__asm__ volatile("svc 0"
			 : "+d"(r2)
			 : "d"(r1), "d"(r3), "d"(r4), "d"(r5), "d"(r6), "d"(r7)
			 : "memory", "cc");
	return r2;
}

#define RAW_ENTRY(function) \
	"lgr %r2, %r15\n\taghi %r15, -160\n\txc 0(8,%r15), 0(%r15)\n\tbrasl %r14, " function "\n\tj .\n"
/* The callee saves its registers in 160 bytes above its stack pointer. */
#define RAW_FRAME 160
#define RAW_CLONE_ARGUMENTS(flags, stack, pidfd, tid) stack, flags, pidfd, tid, 0

RAW_INLINE long raw_start(long nr, long a, long b, long c, long d, long e)
{
	register long r1 __asm__("r1") = nr;
	register long r2 __asm__("r2") = a;
	register long r3 __asm__("r3") = b;
	register long r4 __asm__("r4") = c;
	register long r5 __asm__("r5") = d;
	register long r6 __asm__("r6") = e;
	long result;
	__asm__ volatile("svc 0\n\t"
			 "ltgr %%r2, %%r2\n\t"
			 "jnz 1f\n\t"
			 "lg %%r1, 160(%%r15)\n\t"
			 "lg %%r2, 168(%%r15)\n\t"
			 "basr %%r14, %%r1\n\t"
			 "j .\n"
			 "1:\tlgr %0, %%r2"
			 : "=d"(result), "+d"(r2)
			 : "d"(r1), "d"(r3), "d"(r4), "d"(r5), "d"(r6)
			 : "memory", "cc");
	return result;
}

#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)

RAW_INLINE long raw_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r0 __asm__("r0") = nr;
	register long r3 __asm__("r3") = a;
	register long r4 __asm__("r4") = b;
	register long r5 __asm__("r5") = c;
	register long r6 __asm__("r6") = d;
	register long r7 __asm__("r7") = e;
	register long r8 __asm__("r8") = f;
	/* The summary overflow bit means failure, errno is positive. */
	__asm__ volatile("sc\n\t"
			 "bns+ 1f\n\t"
			 "neg 3, 3\n"
			 "1:"
			 : "+r"(r0), "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6), "+r"(r7), "+r"(r8)
			 :
			 : "r9", "r10", "r11", "r12", "cr0", "ctr", "xer", "memory");
	return r3;
}

#define RAW_ENTRY(function) \
	"mr 3, 1\n\tclrrdi 1, 1, 4\n\tli 0, 0\n\tstdu 0, -32(1)\n\tmtlr 0\n\tbl " function "\n\ttrap\n"
/* A callee saves CR and LR in its caller's frame: a header of 32 bytes. */
#define RAW_FRAME 32
#define RAW_CLONE_ARGUMENTS(flags, stack, pidfd, tid) flags, stack, pidfd, 0, tid

RAW_INLINE long raw_start(long nr, long a, long b, long c, long d, long e)
{
	register long r0 __asm__("r0") = nr;
	register long r3 __asm__("r3") = a;
	register long r4 __asm__("r4") = b;
	register long r5 __asm__("r5") = c;
	register long r6 __asm__("r6") = d;
	register long r7 __asm__("r7") = e;
	__asm__ volatile("sc\n\t"
			 "bns+ 2f\n\t"
			 "neg 3, 3\n\t"
			 "b 1f\n"
			 "2:\tcmpdi 3, 0\n\t"
			 "bne 1f\n\t"
			 "ld 12, 32(1)\n\t"
			 "ld 3, 40(1)\n\t"
			 "mtctr 12\n\t"
			 "bctrl\n\t"
			 "trap\n"
			 "1:"
			 : "+r"(r0), "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6), "+r"(r7)
			 :
			 : "r8", "r9", "r10", "r11", "r12", "cr0", "ctr", "xer", "memory");
	return r3;
}

#else
#error "usernsproc: no raw system calls for this architecture (x86-64, aarch64, riscv64, s390x, ppc64le)"
#endif

/* What the child finds above RAW_FRAME, by raw_start(). */
struct raw_start_frame {
	char frame[RAW_FRAME];
	child_function *function;
	void *argument;
};

RAW_INLINE struct raw_start_frame *raw_frame(char *stack_top, child_function *function, void *argument)
{
	struct raw_start_frame *frame = (struct raw_start_frame *)stack_top - 1;

	if (RAW_FRAME)
		*(uintptr_t *)frame = 0; /* no frame before this one */
	frame->function = function;
	frame->argument = argument;
	return frame;
}

#define RAW_START(nr, ...) RAW_START_(nr, __VA_ARGS__)
#define RAW_START_(nr, a, b, c, d, e) raw_start(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

RAW_INLINE long raw_clone(unsigned long flags, char *stack_top, int *pidfd, int *tid,
			  child_function *function, void *argument)
{
	struct raw_start_frame *stack = raw_frame(stack_top, function, argument);

	return RAW_START(__NR_clone, RAW_CLONE_ARGUMENTS(flags, stack, pidfd, tid));
}

#define RAW_SYSCALL(nr, ...) RAW_SYSCALL_(nr, __VA_ARGS__)
#define RAW_SYSCALL_(nr, a, b, c, d, e) raw_syscall(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

/* Copies the memory: for programs that have a few pages of it. */
RAW_INLINE long raw_fork(unsigned long flags, int *pidfd)
{
	return RAW_SYSCALL(__NR_clone, RAW_CLONE_ARGUMENTS(flags, 0, pidfd, 0));
}

/* struct clone_args of Linux 5.7; size 0 of it where a later field is not set. */
struct raw_clone_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	uint64_t set_tid, set_tid_size, cgroup;
};

/* The caller fills all but the stack, of which *stack_bottom* may be any address
 * below stack_top: the kernel only adds the two. */
RAW_INLINE long raw_clone3(struct raw_clone_args *args, char *stack_bottom, char *stack_top,
			   child_function *function, void *argument)
{
	struct raw_start_frame *stack = raw_frame(stack_top, function, argument);

	args->stack = (uintptr_t)stack_bottom;
	args->stack_size = (uintptr_t)stack - (uintptr_t)stack_bottom;
	return RAW_START(__NR_clone3, args, sizeof(*args), 0, 0, 0);
}

#define RAW0(name) raw_syscall(__NR_##name, 0, 0, 0, 0, 0, 0)
#define RAW1(name, a) raw_syscall(__NR_##name, (long)(a), 0, 0, 0, 0, 0)
#define RAW2(name, a, b) raw_syscall(__NR_##name, (long)(a), (long)(b), 0, 0, 0, 0)
#define RAW3(name, a, b, c) raw_syscall(__NR_##name, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define RAW4(name, a, b, c, d) raw_syscall(__NR_##name, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define RAW5(name, a, b, c, d, e) \
	raw_syscall(__NR_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

#endif

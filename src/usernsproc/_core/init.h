/* Process 1 of a new pid namespace, which the launcher becomes. It follows the rules of programs.c. */
#ifndef USERNSPROC_INIT_H
#define USERNSPROC_INIT_H

#include <sys/resource.h>
#include <sys/wait.h>

#include "launcher_socket.h"

/* As wait4(2) fills it: libc may have another one, with longer times. */
struct kernel_rusage {
	struct {
		long seconds, microseconds;
	} user, system;
	long others[14];
};

/* Where init keeps the socket to the parent. */
#define ENDING_SOCKET 1

/* Sent to the parent: process 1 of a pid namespace cannot be killed by a signal from inside, so its own status
 * is, as shells have it, that of a program that exits. */
RAW_INLINE void send_ending(int status, const struct kernel_rusage *usage, const struct rlimit *cpu)
{
	struct ending ending;

	ending.status = status;
	ending.user[0] = usage->user.seconds;
	ending.user[1] = usage->user.microseconds;
	ending.system[0] = usage->system.seconds;
	ending.system[1] = usage->system.microseconds;
	ending.cpu_limit = (int64_t)cpu->rlim_max;
	raw_syscall(__NR_sendto, ENDING_SOCKET, (long)&ending, sizeof(ending), MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
}

struct stops {
	int is_stopped, count;
};

/* Until the command has ended; its status becomes that of init. The limits of a process can be read until it is reaped. */
RAW_INLINE void reap(long command, int monitored, struct stops *stops)
{
	struct rlimit cpu;
	struct kernel_rusage usage;
	int status;
	long pid;

	cpu.rlim_max = RLIM_INFINITY;
	RAW4(prlimit64, command, RLIMIT_CPU, 0, &cpu);
	while ((pid = RAW4(wait4, -1, &status, WNOHANG | (monitored ? WUNTRACED | WCONTINUED : 0), &usage)) > 0) {
		if (pid != command)
			continue;
		send_ending(status, &usage, &cpu);
		if (WIFEXITED(status) || WIFSIGNALED(status))
			leave(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
		stops->is_stopped = WIFSTOPPED(status);
		stops->count += stops->is_stopped;
	}
}

/* The monitor knows of so many stops, but not whether the command is stopped still: it may have been continued with its
 * process group, and stopped again. */
RAW_INLINE void continue_if_stopped(const struct launcher_parameters *own, long command, struct stops *stops, int count)
{
	reap(command, own->monitors, stops);
	if (stops->is_stopped && stops->count == count)
		RAW2(kill, command, SIGCONT);
}

/* The command's arguments and environment: processes of the namespace can read those of process 1. */
RAW_INLINE void forget_strings(const struct start *start)
{
	int vectors = 2;

	for (char *const *word = start->argv; vectors; word++) {
		if (!*word)
			vectors--;
		for (volatile char *letter = *word; letter && *letter; letter++)
			*letter = 0;
	}
}

/* Pid 1: reaps orphans, and forwards signals to the command. All of them are blocked,
 * and so are not dropped, as others are that pid 1 has no handler for. What comes
 * from the terminal (SI_KERNEL) comes to the command as well. Below a monitor nothing else than what that forwards is to
 * get here, so init leaves the process group of the command. It leaves the session as well, or that group would not
 * be orphaned (setpgid(2)) when all have left it who could continue it. */
RAW_INLINE __attribute__((noreturn)) void be_init(const struct launcher_parameters *own, const struct start *start,
						   long command, int ready)
{
	uint64_t all = ~(uint64_t)0;
	siginfo_t info;
	struct stops stops;

	stops.is_stopped = stops.count = 0;
	forget_strings(start);
	/* The command may have become another user meanwhile. No exec takes the rest from us. */
	must(own, STEP_capabilities, limit_capabilities((uint64_t)1 << CAP_KILL));
	if (ready != 0)
		must(own, STEP_init, RAW3(dup3, ready, 0, 0));
	must(own, STEP_init, RAW3(dup3, own->init_socket, ENDING_SOCKET, 0));
	close_all_from(own, ENDING_SOCKET + 1);
	if (own->is_dumpable) /* there is nothing to be seen that the command has not */
		RAW2(prctl, PR_SET_DUMPABLE, 1);
	RAW2(prctl, PR_SET_NAME, own->init_name);
	if (own->monitors && !command_leaves_group(own))
		must(own, STEP_init, RAW0(setsid));
	RAW1(close, 0);
	for (;;) {
		long signal = RAW4(rt_sigtimedwait, &all, &info, 0, KERNEL_SIGSET_SIZE);

		if (signal == SIGCHLD)
			reap(command, own->monitors, &stops);
		else if (signal == SIGCONT && info.si_code == SI_QUEUE)
			continue_if_stopped(own, command, &stops, info.si_int);
		else if (signal > 0 && (own->monitors || info.si_code != SI_KERNEL))
			RAW2(kill, command, signal);
	}
}

/* Returns in the command alone, when init is what it stays. When that ends the kernel
 * ends all of its namespace, so nothing else needs to. */
RAW_INLINE void put_init_above(const struct launcher_parameters *own, const struct start *start)
{
	struct kernel_sigaction action;
	int ready[2];
	char byte;
	long pid;

	if (has_parent(own))
		die_with_parent(&own->death, own->death.signal);
	must(own, STEP_init, RAW2(pipe2, ready, O_CLOEXEC));
	/* Where it is ignored, children leave no status behind. */
	RAW4(rt_sigaction, SIGCHLD, 0, &action, KERNEL_SIGSET_SIZE);
	handle(SIGCHLD, SIG_DFL);
	pid = raw_fork(SIGCHLD, 0);
	must(own, STEP_init, pid);
	if (pid)
		be_init(own, start, pid, ready[1]);
	RAW1(close, ready[1]);
	RAW3(read, ready[0], &byte, 1);
	RAW1(close, ready[0]);
	RAW4(rt_sigaction, SIGCHLD, &action, 0, KERNEL_SIGSET_SIZE);
}

#endif

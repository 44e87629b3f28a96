/* The process that stays above a command which has to be its child, in place of the calling program. It follows the rules of
 * programs.c.
 *
 * Whoever started the calling program knows that process alone: it has the command's exit status, is stopped and continued
 * when the command is, and what is sent to it gets to the command, once. What is sent to its process group, as the keys of
 * a terminal are, gets to the command anyway. The kernel does not show which it was. So there is a witness, a second
 * process in the group that does nothing: what it has got was sent to the group.
 */
#ifndef USERNSPROC_MONITOR_H
#define USERNSPROC_MONITOR_H

#include <sys/ioctl.h>
#include <sys/wait.h>

#include "launcher_socket.h"

/* Its descriptors while it waits. */
enum { MONITOR_TERMINAL, MONITOR_WITNESS, MONITOR_INIT, MONITOR_SIGNALS, MONITOR_DESCRIPTORS };

struct monitored {
	int witness;   /* a socket, or -errno */
	long terminal; /* a descriptor, or -errno */
	int group, had_terminal;
	int foreground; /* while the command is stopped: the group that it had in the foreground */
	int is_stopped;
	int child_action_is_ignored;
	long child;
};

RAW_INLINE uint64_t mask_of(long signal)
{
	return (uint64_t)1 << (signal - 1);
}

/* ---- the witness ---- */

RAW_INLINE long take_pending(uint64_t signals)
{
	struct {
		int64_t seconds, nanoseconds;
	} now;

	((volatile int64_t *)&now)[0] = ((volatile int64_t *)&now)[1] = 0;
	return RAW4(rt_sigtimedwait, &signals, 0, &now, KERNEL_SIGSET_SIZE);
}

/* It answers whether it has got a signal; to 0, when it has forgotten all. */
RAW_INLINE __attribute__((noreturn)) void be_witness(const struct launcher_parameters *own)
{
	int32_t signal;

	RAW2(prctl, PR_SET_PDEATHSIG, SIGKILL);
	close_descriptors(MONITOR_WITNESS + 1, ~0u, own->proc);
	RAW1(close, 0);
	while (RAW3(read, MONITOR_WITNESS, &signal, sizeof(signal)) == sizeof(signal)) {
		if (signal)
			signal = take_pending(mask_of(signal)) > 0;
		else
			while (take_pending(~(uint64_t)0) > 0)
				;
		raw_syscall(__NR_sendto, MONITOR_WITNESS, (long)&signal, sizeof(signal), MSG_NOSIGNAL, 0, 0);
	}
	leave(0);
}

/* Its answer takes microseconds; if somebody has stopped it, it gives none. 0: it does not know. */
RAW_INLINE int ask_witness(int socket, int32_t signal)
{
	struct {
		int64_t seconds, nanoseconds;
	} second;
	struct pollfd answer;
	volatile struct pollfd *fields = &answer;

	if (socket < 0 || raw_syscall(__NR_sendto, socket, (long)&signal, sizeof(signal), MSG_NOSIGNAL, 0, 0) < 0)
		return 0;
	((volatile int64_t *)&second)[0] = 1;
	((volatile int64_t *)&second)[1] = 0;
	fields->fd = socket;
	fields->events = POLLIN;
	fields->revents = 0;
	if (RAW5(ppoll, &answer, 1, &second, 0, KERNEL_SIGSET_SIZE) <= 0 ||
	    RAW3(read, socket, &signal, sizeof(signal)) != sizeof(signal))
		return 0;
	return signal;
}

/* In the namespaces of the caller: it has to be in the process group, and is not seen by the command. Without one,
 * because the user may have no more processes, signals may come twice. */
RAW_INLINE int start_witness(const struct launcher_parameters *own)
{
	int sockets[2];
	long pid, result = RAW4(socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets);

	if (result < 0)
		return (int)result;
	pid = raw_fork(0, 0);
	if (pid == 0) {
		RAW1(close, sockets[0]);
		RAW3(dup3, sockets[1], MONITOR_WITNESS, 0);
		be_witness(own);
	}
	RAW1(close, sockets[1]);
	if (pid > 0)
		return sockets[0];
	RAW1(close, sockets[0]);
	return (int)pid;
}

/* ---- before the command is there ---- */

RAW_INLINE int foreground_of(long terminal)
{
	int32_t group = -1;

	return RAW3(ioctl, terminal, TIOCGPGRP, &group) < 0 ? -1 : group;
}

RAW_INLINE void prepare_monitor(const struct launcher_parameters *own, struct monitored *monitored)
{
	struct kernel_sigaction action;
	int32_t foreground = -1;

	monitored->terminal = monitored->witness = monitored->foreground = -1;
	monitored->group = monitored->had_terminal = monitored->is_stopped = monitored->child_action_is_ignored = 0;
	if (!own->monitors)
		return;
	for (int fd = 0; fd < 3 && foreground < 0; fd++) {
		foreground = foreground_of(fd);
		if (foreground >= 0)
			monitored->terminal = RAW3(fcntl, fd, F_DUPFD_CLOEXEC, MONITOR_DESCRIPTORS);
	}
	monitored->group = (int)RAW1(getpgid, 0);
	monitored->had_terminal = foreground >= 0 && foreground == monitored->group;
	/* Where it is ignored, children leave no status behind. */
	RAW4(rt_sigaction, SIGCHLD, 0, &action, KERNEL_SIGSET_SIZE);
	monitored->child_action_is_ignored = action.handler == (uintptr_t)SIG_IGN;
	handle(SIGCHLD, SIG_DFL);
	monitored->witness = start_witness(own);
}

/* ---- while it runs ---- */

RAW_INLINE void set_foreground(int group)
{
	int32_t value = group;

	RAW3(ioctl, MONITOR_TERMINAL, TIOCSPGRP, &value);
}

/* A shell in a new pid namespace cannot name the group that was in the foreground before, to put it back. Another
 * shell may have done so, or taken the terminal itself: then its group exists. */
RAW_INLINE __attribute__((noreturn)) void leave_like(const struct monitored *monitored, int status)
{
	int foreground = foreground_of(MONITOR_TERMINAL);

	if (monitored->had_terminal && foreground > 0 && foreground != monitored->group &&
	    RAW2(kill, -(long)foreground, 0) == -ESRCH)
		set_foreground(monitored->group);
	leave(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

/* As the command was, so that a shell notices. */
RAW_INLINE void stop(struct monitored *monitored, long signal)
{
	monitored->is_stopped = 1;
	monitored->foreground = foreground_of(MONITOR_TERMINAL);
	handle(signal, SIG_DFL);
	RAW2(kill, RAW0(getpid), signal);
	set_signal_mask(~mask_of(signal));
	set_signal_mask(~(uint64_t)0);
	ask_witness(MONITOR_WITNESS, (int32_t)signal); /* it may have got it with the group, and forgets it */
}

/* With the terminal, if that has been given to this process' group meanwhile. */
RAW_INLINE void continue_command(struct monitored *monitored)
{
	if (monitored->foreground > 0 && monitored->foreground != monitored->group &&
	    foreground_of(MONITOR_TERMINAL) == monitored->group)
		set_foreground(monitored->foreground);
	monitored->is_stopped = 0;
	RAW2(kill, monitored->child, SIGCONT);
}

RAW_INLINE void follow(struct monitored *monitored, int status)
{
	if (WIFSTOPPED(status))
		stop(monitored, WSTOPSIG(status));
	else
		monitored->is_stopped = 0;
}

/* As process 1 of a namespace it has also others to reap. */
RAW_INLINE void reap_children(struct monitored *monitored)
{
	int status;
	long pid;

	while ((pid = RAW4(wait4, -1, &status, WNOHANG | WUNTRACED | WCONTINUED, 0)) > 0) {
		if (pid != monitored->child)
			continue;
		if (WIFEXITED(status) || WIFSIGNALED(status))
			leave_like(monitored, status);
		follow(monitored, status);
	}
}

/* The kernel sends a signal to all processes of a group before it lets another process change one (tasklist_lock). So
 * when this has failed, the witness has the signal, if it is to get it. */
RAW_INLINE void wait_until_group_has_signal(void)
{
	RAW2(setpgid, 0x7fffffff, 1); /* there is no such process */
}

RAW_INLINE void forward(struct monitored *monitored, long signal)
{
	int has_it;

	wait_until_group_has_signal();
	has_it = ask_witness(MONITOR_WITNESS, (int32_t)signal);
	if (signal == SIGCONT) {
		reap_children(monitored);
		if (monitored->is_stopped) {
			continue_command(monitored);
			return;
		}
	}
	if (!has_it)
		RAW2(kill, monitored->child, signal);
}

RAW_INLINE void take_signal(struct monitored *monitored)
{
	_Alignas(8) char record[128];
	long signal;

	if (RAW3(read, MONITOR_SIGNALS, record, sizeof(record)) != sizeof(record))
		return;
	signal = (long)*(volatile uint32_t *)record;
	if (signal == SIGCHLD)
		reap_children(monitored);
	else
		forward(monitored, signal);
}

/* How the command below an init was stopped or continued. Its end is that of the init. */
RAW_INLINE void take_message(struct monitored *monitored)
{
	struct ending ending;

	if (RAW3(read, MONITOR_INIT, &ending, sizeof(ending)) != sizeof(ending)) {
		RAW1(close, MONITOR_INIT);
		return;
	}
	if (!WIFEXITED((int)ending.status) && !WIFSIGNALED((int)ending.status))
		follow(monitored, (int)ending.status);
}

RAW_INLINE void put_in_place(long fd, int place)
{
	if (fd < 0)
		RAW1(close, place);
	else
		RAW3(dup3, fd, place, O_CLOEXEC);
}

/* Nothing but these stays open: what reads from the command notices when the command closes it. */
RAW_INLINE void keep_own_descriptors(const struct launcher_parameters *own, const struct monitored *monitored)
{
	uint64_t all = ~(uint64_t)0;
	long signals = RAW4(signalfd4, -1, &all, KERNEL_SIGSET_SIZE, SOCK_CLOEXEC);

	must(own, STEP_init, signals);
	signals = RAW3(fcntl, signals, F_DUPFD_CLOEXEC, MONITOR_DESCRIPTORS);
	must(own, STEP_init, signals);
	put_in_place(monitored->terminal, MONITOR_TERMINAL);
	put_in_place(monitored->witness, MONITOR_WITNESS);
	put_in_place(own->monitor_socket, MONITOR_INIT);
	put_in_place(signals, MONITOR_SIGNALS);
	close_all_from(own, MONITOR_DESCRIPTORS);
}

RAW_INLINE __attribute__((noreturn)) void be_monitor(const struct launcher_parameters *own, struct monitored *monitored)
{
	struct pollfd inputs[2];
	volatile struct pollfd *fields = inputs;

	keep_own_descriptors(own, monitored);
	RAW2(prctl, PR_SET_NAME, own->monitor_name);
	for (;;) {
		fields[0].fd = MONITOR_SIGNALS;
		fields[1].fd = MONITOR_INIT;
		fields[0].events = fields[1].events = POLLIN;
		fields[0].revents = fields[1].revents = 0;
		if (RAW5(ppoll, inputs, 2, 0, 0, KERNEL_SIGSET_SIZE) <= 0)
			continue;
		if (fields[1].revents & (POLLIN | POLLHUP))
			take_message(monitored);
		else if (fields[0].revents)
			take_signal(monitored);
	}
}

/* Returns in the command's process alone. A signal that the group got before that existed gets there by the monitor. */
RAW_INLINE void start_monitored(const struct launcher_parameters *own, struct monitored *monitored)
{
	long pid = raw_fork(SIGCHLD, 0);

	must(own, STEP_clone, pid);
	if (pid) {
		monitored->child = pid;
		ask_witness(monitored->witness, 0);
		be_monitor(own, monitored);
	}
	die_with_parent(&own->death, SIGKILL);
	if (monitored->child_action_is_ignored)
		handle(SIGCHLD, SIG_IGN);
	if (monitored->witness >= 0)
		RAW1(close, monitored->witness);
	if (monitored->terminal >= 0)
		RAW1(close, monitored->terminal);
}

#endif

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

#define STATUS_TIMED_OUT 124

#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "launcher_socket.h"

/* Its descriptors while it waits. */
enum { MONITOR_TERMINAL, MONITOR_WITNESS, MONITOR_INIT, MONITOR_SIGNALS, MONITOR_PROC, MONITOR_TIMER, MONITOR_DESCRIPTORS };

struct monitored {
	int witness;   /* a socket, or -errno */
	int init;      /* the number of its socket here; -1: there is none, which poll(2) skips */
	long terminal; /* a descriptor, or -errno */
	int group, had_terminal;
	int foreground; /* while the command is stopped: the group that it had in the foreground */
	int is_stopped, stops;
	int is_process_1; /* of its pid namespace: the command, and not an init */
	int ended_by;	  /* a signal in whose place it got SIGKILL */
	int is_timed_out;
	int child_action_is_ignored;
	long child, witness_pid;
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
	RAW2(prctl, PR_SET_NAME, own->monitor_name);
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
RAW_INLINE int start_witness(const struct launcher_parameters *own, long *witness)
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
	*witness = pid;
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
	monitored->group = monitored->had_terminal = monitored->is_stopped = monitored->stops = monitored->child_action_is_ignored = 0;
	monitored->is_process_1 = own->namespaces.flags & CLONE_NEWPID && own->init_socket < 0;
	monitored->ended_by = monitored->is_timed_out = 0;
	monitored->witness_pid = 0;
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
	if (own->init_socket >= 0 || !command_leaves_group(own)) /* else all is forwarded: nothing gets to it anyway */
		monitored->witness = start_witness(own, &monitored->witness_pid);
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

	if (monitored->witness_pid > 0) { /* not left to a process 1 that might not reap it */
		RAW2(kill, monitored->witness_pid, SIGKILL);
		RAW4(wait4, monitored->witness_pid, 0, __WALL, 0);
	}
	if (monitored->had_terminal && foreground > 0 && foreground != monitored->group &&
	    RAW2(kill, -(long)foreground, 0) == -ESRCH)
		set_foreground(monitored->group);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && monitored->ended_by)
		status = monitored->ended_by; /* as wait4(2) would have it */
	if (monitored->is_timed_out && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) && status != (128 + SIGKILL) << 8)
		leave(STATUS_TIMED_OUT);
	leave(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

/* The kernel sends a signal to all processes of a group before it lets another process change one (tasklist_lock). So
 * when this has failed, the witness has the signal, if it is to get it. */
RAW_INLINE void wait_until_group_has_signal(void)
{
	RAW2(setpgid, 0x7fffffff, 1); /* there is no such process */
}

RAW_INLINE int has_pending(uint64_t signals)
{
	uint64_t pending = 0;

	RAW2(rt_sigpending, &pending, KERNEL_SIGSET_SIZE);
	return (pending & signals) != 0;
}

/* Where nothing else can end it any more, a command that has stopped itself still ends at its time limit. */
RAW_INLINE int stops_with_command(const struct launcher_parameters *own, int status)
{
	return !own->limits[0] || WSTOPSIG(status) != SIGSTOP;
}

/* As the command was, so that a shell notices. Not by the same signal, which would have to be let in for a moment, and would
 * stop this process also when it comes anew. */
RAW_INLINE void stop(const struct launcher_parameters *own, struct monitored *monitored, int status)
{
	monitored->is_stopped = 1;
	monitored->stops++;
	monitored->foreground = foreground_of(MONITOR_TERMINAL);
	if (!stops_with_command(own, status))
		return;
	wait_until_group_has_signal(); /* a signal to stop, which takes one to continue away that came before */
	if (!has_pending(mask_of(SIGCONT))) /* else it has been continued since, and a stop would take that away */
		RAW2(kill, RAW0(getpid), SIGSTOP);
}

/* An init knows by this that it is to look itself; another process makes no difference. */
RAW_INLINE void queue_continue(long pid, int stops)
{
	siginfo_t info;

	for (unsigned i = 0; i < sizeof(info); i++)
		((volatile char *)&info)[i] = 0;
	((volatile siginfo_t *)&info)->si_code = SI_QUEUE;
	((volatile siginfo_t *)&info)->si_int = stops;
	RAW3(rt_sigqueueinfo, pid, SIGCONT, &info);
}

/* With the terminal, if that has been given to this process' group meanwhile. */
RAW_INLINE void continue_command(struct monitored *monitored)
{
	if (monitored->foreground > 0 && monitored->foreground != monitored->group &&
	    foreground_of(MONITOR_TERMINAL) == monitored->group)
		set_foreground(monitored->foreground);
	monitored->is_stopped = 0;
	queue_continue(monitored->child, monitored->stops);
}

RAW_INLINE void follow(const struct launcher_parameters *own, struct monitored *monitored, int status)
{
	if (WIFSTOPPED(status))
		stop(own, monitored, status);
	else
		monitored->is_stopped = 0;
}

/* As process 1 of a namespace it has also others to reap. */
RAW_INLINE void reap_children(const struct launcher_parameters *own, struct monitored *monitored)
{
	int status;
	long pid;

	while ((pid = RAW4(wait4, -1, &status, WNOHANG | WUNTRACED | WCONTINUED, 0)) > 0) {
		if (pid != monitored->child)
			continue;
		if (WIFEXITED(status) || WIFSIGNALED(status))
			leave_like(monitored, status);
		follow(own, monitored, status);
	}
}

/* ---- process 1 of a pid namespace: the kernel drops signals for which it has no handler ---- */

RAW_INLINE long open_status_of(long pid, const char *file)
{
	char path[32];
	volatile char *letter = path + sizeof(path);
	long length = length_of(file);

	for (long i = length; i >= 0; i--)
		*--letter = file[i];
	for (; pid; pid /= 10)
		*--letter = (char)('0' + pid % 10);
	return open_beneath(MONITOR_PROC, (const char *)(uintptr_t)letter, O_RDONLY);
}

RAW_INLINE unsigned hexadecimal(char letter)
{
	return (unsigned)(letter <= '9' ? letter - '0' : letter - 'a' + 10);
}

/* The number behind the name of a field, or all ones if there is none. */
RAW_INLINE uint64_t read_field(long fd, const char *name)
{
	char buffer[256];
	long length = length_of(name), matched = 0, got;
	uint64_t value = 0;

	while ((got = RAW3(read, fd, buffer, sizeof(buffer))) > 0) {
		for (long i = 0; i < got; i++) {
			char letter = ((volatile char *)buffer)[i];

			if (matched == length && letter == '\n')
				return value;
			if (matched == length)
				value = letter == '\t' ? 0 : value << 4 | hexadecimal(letter);
			else
				matched = letter == ((const volatile char *)name)[matched] ? matched + 1 : 0;
		}
	}
	return ~(uint64_t)0;
}

#define LOOKS_AT_PENDING 100

RAW_INLINE void sleep_for_milliseconds(int64_t milliseconds)
{
	struct {
		int64_t seconds, nanoseconds;
	} time;

	((volatile int64_t *)&time)[0] = 0;
	((volatile int64_t *)&time)[1] = milliseconds * 1000000;
	RAW5(ppoll, 0, 0, &time, 0, KERNEL_SIGSET_SIZE);
}

RAW_INLINE int is_in_field(long fd, const char *name, long signal)
{
	RAW3(lseek, fd, 0, 0);
	return (read_field(fd, name) & mask_of(signal)) != 0;
}

/* In sigwait(3). Meanwhile /proc does not show these signals as blocked. */
RAW_INLINE int waits_for_signals(const struct launcher_parameters *own, long pid)
{
	long fd = open_status_of(pid, own->syscall_file), length, number = 0;
	char text[16];

	if (fd < 0)
		return 0;
	length = RAW3(read, fd, text, sizeof(text));
	RAW1(close, fd);
	for (long i = 0; i < length; i++) {
		char letter = ((volatile char *)text)[i];

		if (letter < '0' || letter > '9')
			return i && number == __NR_rt_sigtimedwait;
		number = number * 10 + letter - '0';
	}
	return 0;
}

/* Whether it has a handler, waits for the signal with sigwait(3) or signalfd(2), or ignores it on purpose. Or that is not
 * known. A signal that is pending may be dropped yet, by an exec, which takes the handler away, or when it is no longer blocked.
 * So that is looked at first. */
RAW_INLINE int minds(const struct launcher_parameters *own, long pid, long signal)
{
	long fd = open_status_of(pid, own->status_file);
	int is_pending = fd >= 0, minds = 1;

	for (int look = 0; is_pending && look < LOOKS_AT_PENDING; look++) {
		if (look)
			sleep_for_milliseconds(5);
		is_pending = is_in_field(fd, own->pending_field, signal);
		minds = is_pending || waits_for_signals(own, pid) || is_in_field(fd, own->blocked_field, signal) ||
			waits_for_signals(own, pid) || is_in_field(fd, own->ignored_field, signal) ||
			is_in_field(fd, own->caught_field, signal);
	}
	if (fd >= 0)
		RAW1(close, fd);
	return minds;
}

RAW_INLINE int ends_processes(long signal)
{
	return signal != SIGCHLD && signal != SIGCONT && signal != SIGTSTP && signal != SIGTTIN && signal != SIGTTOU &&
	       signal != SIGURG && signal != SIGWINCH;
}

/* What would end another command ends this one. The terminal may be closed, or a time limit be over. */
RAW_INLINE void end_process_1(const struct launcher_parameters *own, struct monitored *monitored, long signal)
{
	if (!monitored->is_process_1 || !ends_processes(signal) || minds(own, monitored->child, signal))
		return;
	monitored->ended_by = (int)signal;
	RAW2(kill, monitored->child, SIGKILL);
}

/* A signal to stop takes away one to continue that is pending, and the other way round. */
RAW_INLINE uint64_t opposite_of(long signal)
{
	uint64_t stops = mask_of(SIGTSTP) | mask_of(SIGTTIN) | mask_of(SIGTTOU);

	return signal == SIGCONT ? stops : stops & mask_of(signal) ? mask_of(SIGCONT) : 0;
}

RAW_INLINE void forward(const struct launcher_parameters *own, struct monitored *monitored, long signal)
{
	int has_it;

	wait_until_group_has_signal();
	has_it = ask_witness(MONITOR_WITNESS, (int32_t)signal);
	if (has_pending(opposite_of(signal))) /* it came later: the kernel has taken this one away from the others */
		return;
	if (signal == SIGCONT) {
		reap_children(own, monitored);
		if (monitored->is_stopped) {
			continue_command(monitored);
			return;
		}
	}
	if (!has_it)
		RAW2(kill, monitored->child, signal);
	end_process_1(own, monitored, signal);
}

RAW_INLINE void take_signal(const struct launcher_parameters *own, struct monitored *monitored)
{
	_Alignas(8) char record[128];
	long signal;

	if (RAW3(read, MONITOR_SIGNALS, record, sizeof(record)) != sizeof(record))
		return;
	signal = (long)*(volatile uint32_t *)record;
	if (signal == SIGCHLD)
		reap_children(own, monitored);
	else
		forward(own, monitored, signal);
}

/* How the command below an init was stopped or continued. Its end is that of the init. */
RAW_INLINE void take_message(const struct launcher_parameters *own, struct monitored *monitored)
{
	struct ending ending;

	if (RAW3(read, MONITOR_INIT, &ending, sizeof(ending)) != sizeof(ending)) {
		RAW1(close, MONITOR_INIT);
		monitored->init = -1;
		return;
	}
	if (!WIFEXITED((int)ending.status) && !WIFSIGNALED((int)ending.status))
		follow(own, monitored, (int)ending.status);
}

/* ---- its time limit ---- */

RAW_INLINE long set_timer(long timer, int64_t nanoseconds)
{
	int64_t times[4]; /* a struct itimerspec: an interval, and the first time */
	volatile int64_t *words = times;

	words[0] = words[1] = 0;
	words[2] = nanoseconds / 1000000000;
	words[3] = nanoseconds % 1000000000;
	return RAW4(timerfd_settime, timer, 0, times, 0);
}

/* As timeout(1). A stopped command can then end. */
RAW_INLINE void take_time(const struct launcher_parameters *own, struct monitored *monitored)
{
	reap_children(own, monitored);
	if (monitored->is_timed_out) {
		set_timer(MONITOR_TIMER, 0);
		RAW2(kill, monitored->child, SIGKILL);
		return;
	}
	monitored->is_timed_out = 1;
	set_timer(MONITOR_TIMER, own->limits[1]);
	RAW2(kill, monitored->child, SIGTERM);
	RAW2(kill, monitored->child, SIGCONT);
	end_process_1(own, monitored, SIGTERM);
}

/* The descriptor, or a copy of it that is above the numbers of the monitor; -1 remains -1. */
RAW_INLINE long out_of_the_way(const struct launcher_parameters *own, long fd)
{
	long copy;

	if (fd < 0 || fd >= MONITOR_DESCRIPTORS)
		return fd;
	copy = RAW3(fcntl, fd, F_DUPFD_CLOEXEC, MONITOR_DESCRIPTORS);
	must(own, STEP_stdio, copy);
	return copy;
}

RAW_INLINE void put_in_place(long fd, int place)
{
	if (fd < 0)
		RAW1(close, place);
	else
		RAW3(dup3, fd, place, O_CLOEXEC);
}

/* Nothing but these stays open: what reads from the command notices when the command closes it. */
RAW_INLINE void keep_own_descriptors(const struct launcher_parameters *own, struct monitored *monitored)
{
	uint64_t all = ~(uint64_t)0;
	long signals = RAW4(signalfd4, -1, &all, KERNEL_SIGSET_SIZE, O_CLOEXEC), witness, init, proc, timer = -1;

	must(own, STEP_init, signals);
	if (own->limits[0]) {
		timer = RAW2(timerfd_create, CLOCK_MONOTONIC, TFD_CLOEXEC);
		must(own, STEP_prepare, timer);
		must(own, STEP_prepare, set_timer(timer, own->limits[0]));
	}
	timer = out_of_the_way(own, timer);
	signals = out_of_the_way(own, signals);
	witness = out_of_the_way(own, monitored->witness);
	init = out_of_the_way(own, own->monitor_socket);
	proc = out_of_the_way(own, own->proc);
	put_in_place(monitored->terminal, MONITOR_TERMINAL);
	put_in_place(witness, MONITOR_WITNESS);
	put_in_place(init, MONITOR_INIT);
	monitored->init = init < 0 ? -1 : MONITOR_INIT;
	put_in_place(signals, MONITOR_SIGNALS);
	put_in_place(proc, MONITOR_PROC);
	put_in_place(timer, MONITOR_TIMER);
	must(own, STEP_stdio, close_descriptors(MONITOR_DESCRIPTORS, ~0u, MONITOR_PROC));
}

RAW_INLINE __attribute__((noreturn)) void be_monitor(const struct launcher_parameters *own, struct monitored *monitored)
{
	struct pollfd inputs[3];
	volatile struct pollfd *fields = inputs;

	RAW2(prctl, PR_SET_NAME, own->monitor_name);
	keep_own_descriptors(own, monitored);
	for (;;) {
		fields[0].fd = MONITOR_SIGNALS;
		fields[1].fd = monitored->init;
		fields[2].fd = own->limits[0] ? MONITOR_TIMER : -1;
		fields[0].events = fields[1].events = fields[2].events = POLLIN;
		fields[0].revents = fields[1].revents = fields[2].revents = 0;
		if (RAW5(ppoll, inputs, 3, 0, 0, KERNEL_SIGSET_SIZE) <= 0)
			continue;
		if (fields[1].revents & (POLLIN | POLLHUP))
			take_message(own, monitored);
		else if (fields[0].revents)
			take_signal(own, monitored);
		else if (fields[2].revents)
			take_time(own, monitored);
	}
}

/* Returns in the command's process alone, when the other is ready: what the group gets from then on gets to both, and
 * to the witness. What it got before gets to the command by the monitor. */
RAW_INLINE void start_monitored(const struct launcher_parameters *own, struct monitored *monitored)
{
	int ready[2];
	char byte;
	long pid;

	must(own, STEP_prepare, RAW2(pipe2, ready, O_CLOEXEC));
	pid = raw_fork(SIGCHLD, 0);
	must(own, STEP_clone, pid);
	if (pid) {
		monitored->child = pid;
		wait_until_group_has_signal();
		ask_witness(monitored->witness, 0);
		be_monitor(own, monitored); /* closes the pipe */
	}
	RAW1(close, ready[1]);
	die_with_parent(&own->death, SIGKILL);
	RAW3(read, ready[0], &byte, 1);
	RAW1(close, ready[0]);
	if (monitored->child_action_is_ignored)
		handle(SIGCHLD, SIG_IGN);
	if (monitored->witness >= 0)
		RAW1(close, monitored->witness);
	if (monitored->terminal >= 0)
		RAW1(close, monitored->terminal);
}

#endif

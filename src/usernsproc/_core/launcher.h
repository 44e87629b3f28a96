/* The program between a child in the caller's memory and the command.
 *
 * It runs alone, in memory that holds nothing of the parent's, so it may do what
 * a child in shared memory may not: wait for others, change ids, which would make the
 * parent non-dumpable, enter a cgroup, which may be full or frozen, and enter
 * namespaces, whose root could look at it. Its steps are in launch(), at the end. It
 * follows the rules of programs.c.
 */
#ifndef USERNSPROC_LAUNCHER_H
#define USERNSPROC_LAUNCHER_H

#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "inline.h"

#ifndef CLONE_NEWUSER
#define CLONE_NEWUSER 0x10000000
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#define KEYCTL_JOIN_SESSION_KEYRING 1

/* ---- what it is sent ---- */

RAW_INLINE long wait_until_readable(int fd)
{
	struct pollfd input;
	volatile struct pollfd *fields = &input; /* one by one, without a constant of the compiler's */

	fields->fd = fd;
	fields->events = POLLIN;
	fields->revents = 0;
	return RAW5(ppoll, &input, 1, 0, 0, KERNEL_SIGSET_SIZE);
}

RAW_INLINE long tell_by(int socket, enum step step, long result)
{
	struct report report;

	report.step = step;
	report.error = (int32_t)-result;
	report.pid = 0;
	result = RAW3(write, socket, &report, sizeof(report));
	return step == STEP_none ? result : -1;
}

/* 0: the parent gave up, and hears nothing. */
RAW_INLINE void leave_with_error(int socket, long result)
{
	if (result < 0)
		tell_by(socket, STEP_prepare, result);
	leave(255);
}

/* The next message of the parent, which closes its end when it gives up. */
RAW_INLINE long hear(int report, void *buffer, long size)
{
	for (int look = 0;; look++) {
		long length = RAW3(read, report, buffer, size);

		if (length > 0)
			return length;
		if (length != -EAGAIN && length != -EINTR)
			leave_with_error(report, length);
		if (look < SPINS)
			RAW0(sched_yield);
		else
			wait_until_readable(report);
	}
}

RAW_INLINE void wait_for_parent(const struct launcher_parameters *own)
{
	char byte;

	hear(own->report, &byte, 1);
}

RAW_INLINE const struct launcher_parameters *hear_parameters(int report)
{
	uintptr_t address = PROGRAM_DATA;
	uint64_t length = 0;

	__asm__("" : "+r"(address)); /* the optimizer would take it for a mistake */
	do
		length += (uint64_t)hear(report, (char *)address + length, LAUNCHER_CHUNK);
	while (length < ((volatile struct launcher_parameters *)address)->size);
	return (const struct launcher_parameters *)address;
}

/* What the kernel puts on the stack: the number of arguments, these, a NULL, the environment.
 * The first argument ends with the number of the socket, the others are the command's. */
struct start {
	long argc;
	char *argv[];
};

RAW_INLINE int socket_of(const struct start *start)
{
	volatile char *letter = start->argv[0];
	int fd = 0;

	while (*letter < '0' || *letter > '9')
		letter++;
	for (; *letter; letter++) {
		fd = fd * 10 + (*letter - '0');
		*letter = '0'; /* what ps(1) shows is always the same */
	}
	return fd;
}

/* ---- what it tells ---- */

RAW_INLINE void tell(const struct launcher_parameters *own, enum step step, long result)
{
	if (tell_by(own->report, step, result) < 0) /* the end of the socket tells it, too */
		leave(255);
}

RAW_INLINE void need(const struct launcher_parameters *own, enum step step, long result)
{
	if (result < 0)
		tell(own, step, result);
}

/* That another child of the same parent goes on, with its pidfd. */
RAW_INLINE void tell_of_hop(const struct launcher_parameters *own, long pid, int pidfd)
{
	struct report report;
	struct iovec part;
	struct msghdr message;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	/* Written field by field, without a constant of the compiler's in between. */
	volatile struct cmsghdr *header = &control.header;
	volatile unsigned char *raw = (volatile unsigned char *)&message;

	for (unsigned i = 0; i < sizeof(message); i++)
		raw[i] = 0;
	report.step = STEP_none;
	report.error = 0;
	report.pid = (int32_t)pid;
	part.iov_base = &report;
	part.iov_len = sizeof(report);
	message.msg_iov = &part;
	message.msg_iovlen = 1;
	message.msg_control = &control;
	message.msg_controllen = sizeof(control);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	*(volatile int *)CMSG_DATA(&control.header) = pidfd;
	need(own, STEP_clone, RAW3(sendmsg, own->report, &message, 0));
}

/* ---- hops: another child of the same parent goes on ---- */

/* Root in a joined namespace may kill this process before it has told of the other: that is in its
 * process group, by which the parent finds it, until it puts it into the right one. */
RAW_INLINE void prepare_hop(const struct launcher_parameters *own)
{
	need(own, STEP_setpgid, own->group ? RAW2(setpgid, 0, 0) : 0);
}

/* Returns in the new process alone, a copy of this memory: a few pages. It tells nothing before the parent
 * has let it go on: it may be faster than this process. */
RAW_INLINE void finish_hop(const struct launcher_parameters *own, long pid, int pidfd)
{
	if (pid == 0) {
		die_with_parent(&own->death, SIGKILL); /* no child inherits it */
		return;
	}
	tell_of_hop(own, pid, pidfd);
	leave(0);
}

/* With CLONE_PARENT the parent is that of this process. */
RAW_INLINE void hop(const struct launcher_parameters *own)
{
	int pidfd = -1;
	long pid;

	prepare_hop(own);
	pid = raw_fork(CLONE_PARENT | CLONE_PIDFD, &pidfd);
	need(own, STEP_clone, pid);
	finish_hop(own, pid, pidfd);
}

RAW_INLINE long fork_into_cgroup(int cgroup, int *pidfd)
{
	struct raw_clone_args arguments;

	for (unsigned i = 0; i < sizeof(arguments) / sizeof(uint64_t); i++)
		((volatile uint64_t *)&arguments)[i] = 0;
	arguments.flags = CLONE_PARENT | CLONE_PIDFD | CLONE_INTO_CGROUP;
	arguments.pidfd = (uintptr_t)pidfd;
	arguments.cgroup = (uint64_t)cgroup;
	return RAW2(clone3, &arguments, sizeof(arguments));
}

/* Born in the cgroup (Linux 5.7), so that its pids.max is obeyed; with all rights of the caller, before
 * anything else is entered. Where clone3(2) is refused by a filter, or is older, the parent moves this process. */
RAW_INLINE void enter_cgroup(const struct launcher_parameters *own)
{
	int pidfd = -1;
	long pid;

	if (own->cgroup < 0)
		return;
	prepare_hop(own);
	pid = fork_into_cgroup(own->cgroup, &pidfd);
	if (pid >= 0) {
		finish_hop(own, pid, pidfd);
		wait_for_parent(own);
		return;
	}
	if (pid != -ENOSYS && pid != -EPERM && pid != -E2BIG)
		need(own, pid == -EAGAIN || pid == -ENOMEM ? STEP_clone : STEP_cgroup, pid);
	need(own, STEP_setpgid, own->group ? RAW2(setpgid, 0, own->group) : 0);
	tell(own, STEP_none, 0);
	wait_for_parent(own);
}

/* ---- entering and creating namespaces ---- */

RAW_INLINE void enter_namespaces(const struct launcher_parameters *own)
{
	const struct founding *founding = &own->founding;

	/* Root in there must not be able to look at this process: its memory is the outer
	 * namespace's, and from here on readable to root of that one alone. The kernel keeps
	 * it so until an exec has closed what is not the command's. */
	if (founding->join_count)
		need(own, STEP_prepare, RAW2(prctl, PR_SET_DUMPABLE, 0));
	for (uint32_t i = 0; i < founding->join_count; i++)
		need(own, STEP_setns, RAW2(setns, founding->joins[i].fd, founding->joins[i].kind));
	for (uint32_t i = 0; i < founding->join_count; i++)
		RAW1(close, founding->joins[i].fd);
}

/* A user namespace belongs to the effective user id of the process that creates it. After this, this process or
 * another one is where the command is to run, and the parent knows. */
RAW_INLINE void create_namespaces(const struct launcher_parameters *own)
{
	const struct founding *founding = &own->founding;

	if (founding->owner.is_set)
		need(own, STEP_owner, RAW3(setresuid, -1, founding->owner.id, -1));
	if (founding->namespaces)
		need(own, STEP_clone, RAW1(unshare, founding->namespaces));
	if (needs_child(founding)) {
		hop(own);
		return;
	}
	die_with_parent(&own->death, SIGKILL); /* a change of ids clears it */
	tell(own, STEP_none, 0);
}

/* ---- what it becomes ---- */

/* Park until killed, or until the creating process has ended. The name is set
 * last: it says that all is as it will stay. */
RAW_INLINE __attribute__((noreturn)) void hold(const struct holder_parameters *own)
{
	struct rlimit no_core;

	no_core.rlim_cur = no_core.rlim_max = 0;
	RAW4(prlimit64, 0, RLIMIT_CORE, &no_core, 0);
	if (!own->has_lifeline)
		RAW1(close, 0);
	RAW2(prctl, PR_SET_NAME, own->name);
	while (own->has_lifeline)
		if (wait_until_readable(0) > 0)
			leave(0);
	for (;;)
		RAW5(ppoll, 0, 0, 0, 0, KERNEL_SIGSET_SIZE);
}

RAW_INLINE void close_all_from(const struct launcher_parameters *own, unsigned first)
{
	need(own, STEP_stdio, close_descriptors(first, ~0u, own->proc));
	if (own->proc >= 0)
		RAW1(close, own->proc);
}

RAW_INLINE void take_place_of(const struct launcher_parameters *own)
{
	enum step step;
	long result = take_place(&own->place, &step);

	need(own, step, result);
}

RAW_INLINE void take_session_of(const struct launcher_parameters *own)
{
	enum step step;
	long result = take_session(&own->place, &step);

	need(own, step, result);
}

RAW_INLINE long take_ids(const struct credentials *ids)
{
	long result = 0;

	if (ids->set_groups)
		result = RAW2(setgroups, ids->group_count, ids->groups);
	if (result == 0 && ids->gid.is_set)
		result = RAW3(setresgid, ids->gid.id, ids->gid.id, ids->gid.id);
	if (result == 0 && ids->uid.is_set)
		result = RAW3(setresuid, ids->uid.id, ids->uid.id, ids->uid.id);
	return result;
}

/* So that nothing of the caller's session keyring can be used in there (keyrings(7)). What a filter
 * refuses here it refuses to the command as well, which then cannot use it. */
RAW_INLINE void join_session_keyring(const struct launcher_parameters *own)
{
	int32_t wanted = own->privileges.session_keyring;
	long result;

	if (wanted == KEYRING_INHERITED)
		return;
	result = RAW2(keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
	if (wanted == KEYRING_NEW || (result != -ENOSYS && result != -EPERM))
		need(own, STEP_keyring, result);
}

RAW_INLINE __attribute__((noreturn)) void be_holder(const struct launcher_parameters *own)
{
	need(own, STEP_setid, take_ids(&own->credentials));
	join_session_keyring(own);
	take_session_of(own);
	die_with_parent(&own->death, own->death.signal); /* it looks after itself: the thread may end */
	close_all_from(own, 1); /* 0 is its lifeline */
	if (own->is_dumpable) /* there is nothing to be seen, any more */
		RAW2(prctl, PR_SET_DUMPABLE, 1);
	set_signal_mask(0);
	hold(&own->holder);
}

/* As shells have it: process 1 of a pid namespace cannot be killed by a signal from inside. */
RAW_INLINE void leave_as(int status)
{
	leave(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

/* Until the command has ended; its status becomes ours. */
RAW_INLINE void reap(long command)
{
	int status;
	long pid;

	while ((pid = RAW4(wait4, -1, &status, WNOHANG, 0)) > 0)
		if (pid == command)
			leave_as(status);
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
 * from the terminal (SI_KERNEL) comes to the command as well. */
RAW_INLINE __attribute__((noreturn)) void be_init(const struct launcher_parameters *own, const struct start *start,
						   long command, int ready)
{
	uint64_t all = ~(uint64_t)0;
	siginfo_t info;

	forget_strings(start);
	/* The command may have become another user meanwhile. No exec takes the rest from us. */
	need(own, STEP_capabilities, limit_capabilities((uint64_t)1 << CAP_KILL));
	if (ready != 0)
		need(own, STEP_init, RAW3(dup3, ready, 0, 0));
	close_all_from(own, 1);
	if (own->is_dumpable) /* there is nothing to be seen that the command has not */
		RAW2(prctl, PR_SET_DUMPABLE, 1);
	RAW2(prctl, PR_SET_NAME, own->init_name);
	RAW1(close, 0);
	for (;;) {
		long signal = RAW4(rt_sigtimedwait, &all, &info, 0, KERNEL_SIGSET_SIZE);

		if (signal == SIGCHLD)
			reap(command);
		else if (signal > 0 && info.si_code != SI_KERNEL)
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

	die_with_parent(&own->death, own->death.signal);
	need(own, STEP_init, RAW2(pipe2, ready, O_CLOEXEC));
	/* Where it is ignored, children leave no status behind. */
	RAW4(rt_sigaction, SIGCHLD, 0, &action, KERNEL_SIGSET_SIZE);
	handle(SIGCHLD, SIG_DFL);
	pid = raw_fork(SIGCHLD, 0);
	need(own, STEP_init, pid);
	if (pid)
		be_init(own, start, pid, ready[1]);
	RAW1(close, ready[1]);
	RAW3(read, ready[0], &byte, 1);
	RAW1(close, ready[0]);
	RAW4(rt_sigaction, SIGCHLD, &action, 0, KERNEL_SIGSET_SIZE);
}

/* A user namespace that it has made took all that would outlive an exec. */
RAW_INLINE int has_kept_capabilities(const struct founding *founding)
{
	return !(founding->namespaces & CLONE_NEWUSER);
}

RAW_INLINE void become_unprivileged(const struct launcher_parameters *own)
{
	const struct privileges *privileges = &own->privileges;

	if (privileges->ambient) /* only kept by this when inside 0 becomes another */
		RAW5(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
	need(own, STEP_setid, take_ids(&own->credentials));
	join_session_keyring(own);
	if (privileges->ambient || has_kept_capabilities(&own->founding))
		need(own, STEP_capabilities, keep_over_exec(privileges->ambient)); /* and no others */
	need(own, STEP_no_new_privs, refuse_new_privileges(privileges));
}

RAW_INLINE void keep_private(const struct launcher_parameters *own, int fd)
{
	if (fd >= 0)
		need(own, STEP_stdio, RAW3(fcntl, fd, F_SETFD, FD_CLOEXEC));
}

/* An exec by a process whose real ID is not its effective one takes this away, and with
 * it the files in /proc through which the parent writes the maps. There is no namespace
 * yet, so no process inside can trace this one. */
RAW_INLINE void let_the_parent_look(const struct launcher_parameters *own)
{
	if (own->is_dumpable && !own->founding.join_count)
		RAW2(prctl, PR_SET_DUMPABLE, 1);
}

RAW_INLINE __attribute__((noreturn)) void execute_command(const struct launcher_parameters *own,
							   const struct start *start)
{
	struct command command;

	command.argv = start->argv + 1;
	command.envp = start->argv + start->argc + 1;
	command.candidates = own->candidates;
	tell(own, STEP_none, 0);
	set_signal_mask(own->signal_mask);
	tell(own, STEP_exec, -execute(&command));
	leave(255);
}

RAW_INLINE __attribute__((noreturn)) void launch(const struct start *start)
{
	const struct launcher_parameters *own = hear_parameters(socket_of(start));

	let_the_parent_look(own);
	keep_private(own, own->report);
	keep_private(own, own->death.parent_pidfd);
	keep_private(own, own->cgroup);
	keep_private(own, own->proc);
	enter_cgroup(own);
	enter_namespaces(own);
	create_namespaces(own);
	wait_for_parent(own);
	take_place_of(own);
	if (own->is_holder)
		be_holder(own);
	become_unprivileged(own);
	if (own->is_init)
		put_init_above(own, start);
	take_session_of(own);
	if (!own->is_init) /* after the ids: changing them clears it */
		die_with_parent(&own->death, own->death.signal);
	RAW2(prctl, PR_SET_NAME, own->name);
	execute_command(own, start);
}

#endif

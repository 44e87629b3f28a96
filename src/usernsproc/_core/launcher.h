/* The program between a child in our memory and the command.
 *
 * It runs alone, in memory that holds nothing of the parent's, so it may do what
 * a child in shared memory may not: change ids, which would make the parent
 * non-dumpable, and enter namespaces, where whoever is root could look at it. Its
 * steps are in launch(), at the end. It follows the rules of programs.c.
 */
#ifndef USERNSPROC_LAUNCHER_H
#define USERNSPROC_LAUNCHER_H

#include <fcntl.h>
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

/* ---- what it tells ---- */

RAW_INLINE void tell(const struct launcher_parameters *own, enum step step, long result)
{
	struct report report;

	report.failure.step = step;
	report.failure.error = (int32_t)-result;
	report.pid = 0;
	result = RAW3(write, own->report, &report, sizeof(report));
	if (step != STEP_none || result < 0) /* our end tells who waits for a word */
		leave(255);
}

RAW_INLINE void need(const struct launcher_parameters *own, enum step step, long result)
{
	if (result < 0)
		tell(own, step, result);
}

/* That another child of the same parent goes on, and here it is. */
RAW_INLINE void tell_of_successor(const struct launcher_parameters *own, long pid, int pidfd)
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
	report.failure.step = STEP_none;
	report.failure.error = 0;
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

/* ---- entering and making namespaces ---- */

RAW_INLINE void enter_namespaces(const struct launcher_parameters *own)
{
	const struct founding *founding = &own->founding;

	/* Whoever is root in there shall not be able to look at us: this memory is the
	 * outer namespace's, and from here on readable to its root alone. The kernel keeps
	 * it so until an exec has closed what is not the command's. */
	if (founding->join_count)
		need(own, STEP_prepare, RAW2(prctl, PR_SET_DUMPABLE, 0));
	for (uint32_t i = 0; i < founding->join_count; i++)
		need(own, STEP_setns, RAW2(setns, founding->joins[i].fd, founding->joins[i].kind));
	for (uint32_t i = 0; i < founding->join_count; i++)
		RAW1(close, founding->joins[i].fd);
}

/* A user namespace belongs to the effective user id of its maker. */
RAW_INLINE void make_namespaces(const struct launcher_parameters *own)
{
	const struct founding *founding = &own->founding;

	if (founding->owner.is_set)
		need(own, STEP_owner, RAW3(setresuid, -1, founding->owner.id, -1));
	if (founding->namespaces)
		need(own, STEP_clone, RAW1(unshare, founding->namespaces));
}

/* With CLONE_PARENT the parent is ours, whose child it is to be. A copy of this
 * memory: a few pages. Root in a joined namespace may kill us before we have told of
 * it: it is in a process group of ours, by which our parent finds it, until that puts
 * it into its own. Returns in the new process alone. */
RAW_INLINE void let_a_child_go_on(const struct launcher_parameters *own)
{
	int pidfd = -1;
	long pid = own->has_group ? RAW2(setpgid, 0, 0) : 0;

	need(own, STEP_setpgid, pid);
	pid = raw_fork(CLONE_PARENT | CLONE_PIDFD, &pidfd);
	need(own, STEP_clone, pid);
	if (pid == 0)
		return;
	tell_of_successor(own, pid, pidfd);
	leave(0);
}

RAW_INLINE long wait_until_readable(int fd)
{
	struct pollfd input;
	volatile struct pollfd *fields = &input; /* one by one, without a constant of the compiler's */

	fields->fd = fd;
	fields->events = POLLIN;
	fields->revents = 0;
	return RAW5(ppoll, &input, 1, 0, 0, KERNEL_SIGSET_SIZE);
}

/* The parent knows which process we are, and has written the maps, but for a holder that
 * keeps its IDs.
 * It closes its end when it gives up. */
RAW_INLINE void wait_for_parent(const struct launcher_parameters *own)
{
	char byte;
	long length;

	/* It comes soon, and to be woken takes longer. */
	for (int look = 0;; look++) {
		length = RAW3(read, own->report, &byte, 1);
		if (length == 1)
			return;
		if (length != -EAGAIN && length != -EINTR)
			leave(255);
		if (look < LOOKS_WITHOUT_SLEEP)
			RAW0(sched_yield);
		else
			wait_until_readable(own->report);
	}
}

RAW_INLINE void found(const struct launcher_parameters *own)
{
	enter_namespaces(own);
	make_namespaces(own);
	if (has_successor(&own->founding))
		let_a_child_go_on(own);
	else
		tell(own, STEP_none, 0);
	die_with_parent(&own->death, SIGKILL); /* a change of ids or an exec may clear it, and no child inherits it */
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

/* From the first on. Linux < 5.9 has no close_range(). */
RAW_INLINE void close_all_from(unsigned first)
{
	struct rlimit limit;

	if (RAW3(close_range, first, ~0u, 0) == 0)
		return;
	if (RAW4(prlimit64, 0, RLIMIT_NOFILE, 0, &limit) == 0)
		for (uint64_t fd = first; fd < limit.rlim_cur; fd++)
			RAW1(close, fd);
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

#ifndef KEYCTL_JOIN_SESSION_KEYRING
#define KEYCTL_JOIN_SESSION_KEYRING 1
#endif

/* After the ids: it belongs to them. Where keyctl() is not to be had, the command, which
 * has the same filter, cannot use the keyring that it keeps. */
RAW_INLINE void take_session_keyring(const struct launcher_parameters *own)
{
	long result = own->session_keyring ? RAW2(keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0) : 0;

	if (own->session_keyring == 1 && (result == -ENOSYS || result == -EPERM))
		return;
	need(own, STEP_keyring, result);
}

RAW_INLINE __attribute__((noreturn)) void be_holder(const struct launcher_parameters *own)
{
	need(own, STEP_setid, take_ids(&own->credentials));
	take_session_keyring(own);
	take_session_of(own);
	die_with_parent(&own->death, own->death.signal); /* it looks after itself: the thread may end */
	close_all_from(1); /* 0 is its lifeline */
	if (own->is_dumpable) /* there is nothing to be seen, any more */
		RAW2(prctl, PR_SET_DUMPABLE, 1);
	set_signal_mask(0);
	hold(&own->holder);
}

/* As shells have it: nobody outside can be killed by the signal of who is pid 1. */
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

/* Pid 1: reaps orphans, and forwards signals to the command. All of them are blocked,
 * and so are not dropped, as others are that pid 1 has no handler for. What comes
 * from the terminal (SI_KERNEL) comes to the command as well. */
RAW_INLINE __attribute__((noreturn)) void be_init(const struct launcher_parameters *own, long command,
						   int ready)
{
	uint64_t all = ~(uint64_t)0;
	siginfo_t info;

	/* The command may have become another user meanwhile. No exec takes the rest from us. */
	need(own, STEP_capabilities, limit_capabilities((uint64_t)1 << CAP_KILL));
	if (ready != 0)
		need(own, STEP_init, RAW3(dup3, ready, 0, 0));
	close_all_from(1);
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
RAW_INLINE void put_init_above(const struct launcher_parameters *own)
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
		be_init(own, pid, ready[1]);
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
	take_session_keyring(own);
	if (privileges->ambient || has_kept_capabilities(&own->founding))
		need(own, STEP_capabilities, keep_over_exec(privileges->ambient)); /* and no others */
	need(own, STEP_no_new_privs, refuse_new_privileges(privileges));
}

RAW_INLINE void keep_private(const struct launcher_parameters *own)
{
	long result = RAW3(fcntl, own->report, F_SETFD, FD_CLOEXEC);

	if (result == 0 && own->death.parent_pidfd >= 0)
		result = RAW3(fcntl, own->death.parent_pidfd, F_SETFD, FD_CLOEXEC);
	need(own, STEP_stdio, result);
}

/* An exec by a process whose real ID is not its effective one takes this away, and with
 * it the files in /proc through which the parent writes the maps. There is no namespace
 * yet, so no process inside can trace this one. */
RAW_INLINE void let_the_parent_look(const struct launcher_parameters *own)
{
	if (own->is_dumpable && !own->founding.join_count)
		RAW2(prctl, PR_SET_DUMPABLE, 1);
}

RAW_INLINE __attribute__((noreturn)) void launch(const struct launcher_parameters *own)
{
	let_the_parent_look(own);
	keep_private(own);
	found(own);
	wait_for_parent(own);
	take_place_of(own);
	if (own->is_holder)
		be_holder(own);
	become_unprivileged(own);
	if (own->is_init)
		put_init_above(own);
	take_session_of(own);
	if (!own->is_init) /* after the ids: changing them clears it */
		die_with_parent(&own->death, own->death.signal);
	RAW2(prctl, PR_SET_NAME, own->name);
	tell(own, STEP_none, 0);
	set_signal_mask(own->signal_mask);
	tell(own, STEP_exec, -execute(&own->command));
	leave(255);
}

#endif

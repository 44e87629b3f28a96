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

#include <sys/resource.h>

#include "init.h"
#include "launcher_socket.h"
#include "monitor.h"

/* ---- a second process: another child of the same parent continues ---- */

/* Root in a joined namespace may kill this process before it has reported the other: that is in its
 * process group, by which the parent finds it, until it puts it into the right one. */
RAW_INLINE void prepare_second_process(const struct launcher_parameters *own)
{
	must(own, STEP_setpgid, own->group ? RAW2(setpgid, 0, 0) : 0);
}

/* Returns in the new process alone, a copy of this memory: a few pages. It reports nothing before the parent
 * has released it: it may be faster than this process. */
RAW_INLINE void continue_in_second_process(const struct launcher_parameters *own, long pid, int pidfd)
{
	if (pid == 0) {
		die_with_parent(&own->death, SIGKILL); /* no child inherits it */
		return;
	}
	report_second_process(own, pid, pidfd);
	leave(0);
}

/* With CLONE_PARENT the parent is that of this process. */
RAW_INLINE void start_second_process(const struct launcher_parameters *own)
{
	int pidfd = -1;
	long pid;

	prepare_second_process(own);
	pid = raw_fork(CLONE_PARENT | CLONE_PIDFD, &pidfd);
	must(own, STEP_clone, pid);
	continue_in_second_process(own, pid, pidfd);
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
	if (own->becomes) {
		must(own, STEP_cgroup, move_into_cgroup(own->cgroup, own->cgroup_file));
		return;
	}
	prepare_second_process(own);
	pid = fork_into_cgroup(own->cgroup, &pidfd);
	if (pid >= 0) {
		continue_in_second_process(own, pid, pidfd);
		wait_for_parent(own);
		return;
	}
	if (pid != -ENOSYS && pid != -EPERM && pid != -E2BIG)
		must(own, pid == -EAGAIN || pid == -ENOMEM ? STEP_clone : STEP_cgroup, pid);
	must(own, STEP_setpgid, own->group ? RAW2(setpgid, 0, own->group) : 0);
	report(own, STEP_none, 0);
	wait_for_parent(own);
}

/* ---- the calls of the set-up ---- */

RAW_INLINE void set_up(const struct launcher_parameters *own, enum section section)
{
	enum step step = STEP_none;
	long result = run_calls(&own->setup, section, &step);

	must(own, step, result);
}

/* ---- entering and creating namespaces ---- */

RAW_INLINE void enter_namespaces(const struct launcher_parameters *own)
{
	const struct namespaces *namespaces = &own->namespaces;

	/* Root of a joined namespace must not be able to look at this process: its memory is the outer
	 * namespace's, and from here on readable to root of that one alone. The kernel keeps
	 * it so until an exec has closed what is not the command's. */
	if (namespaces->join_count > (uint32_t)own->enters_own_userns)
		must(own, STEP_prepare, RAW2(prctl, PR_SET_DUMPABLE, 0));
	for (uint32_t i = 0; i < namespaces->join_count; i++)
		must(own, STEP_setns, RAW2(setns, namespaces->joins[i].fd, namespaces->joins[i].kind));
	for (uint32_t i = 0; i < namespaces->join_count; i++)
		RAW1(close, namespaces->joins[i].fd);
}

/* A user namespace belongs to the effective user id of the process that creates it. After this, this process or
 * another one is where the command is to run, and the parent knows. */
RAW_INLINE void create_namespaces(const struct launcher_parameters *own)
{
	const struct namespaces *namespaces = &own->namespaces;

	if (namespaces->owner.is_set)
		must(own, STEP_owner, RAW3(setresuid, -1, namespaces->owner.id, -1));
	if (namespaces->flags)
		must(own, STEP_clone, RAW1(unshare, namespaces->flags));
	set_up(own, BEFORE_NAMESPACES_ARE_USED);
	if (own->becomes)
		return;
	if (needs_child(namespaces)) {
		start_second_process(own);
		return;
	}
	die_with_parent(&own->death, SIGKILL); /* a change of ids clears it */
	report(own, STEP_none, 0);
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

RAW_INLINE __attribute__((noreturn)) void be_holder(const struct launcher_parameters *own)
{
	set_up(own, FOR_INIT_AND_COMMAND);
	die_with_parent(&own->death, own->death.signal); /* it looks after itself: the thread may end */
	close_all_from(own, 1); /* 0 is its lifeline */
	if (own->is_dumpable) /* there is nothing to be seen, any more */
		RAW2(prctl, PR_SET_DUMPABLE, 1);
	set_signal_mask(0);
	hold(&own->holder);
}

/* A user namespace that it has made took all that would outlive an exec. */
RAW_INLINE int has_kept_capabilities(const struct namespaces *namespaces)
{
	return !(namespaces->flags & CLONE_NEWUSER);
}

RAW_INLINE void become_unprivileged(const struct launcher_parameters *own)
{
	uint64_t ambient = own->setup.ambient;

	if (ambient) /* only kept by this when inside 0 becomes another */
		RAW5(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
	set_up(own, FOR_INIT_AND_COMMAND);
	if (ambient || has_kept_capabilities(&own->namespaces))
		must(own, STEP_capabilities, keep_over_exec(ambient)); /* and no others */
}

RAW_INLINE void close_if_there(int fd)
{
	if (fd >= 0)
		RAW1(close, fd);
}

RAW_INLINE void set_close_on_exec(const struct launcher_parameters *own, int fd)
{
	if (fd >= 0)
		must(own, STEP_stdio, RAW3(fcntl, fd, F_SETFD, FD_CLOEXEC));
}

/* An exec by a process whose real ID is not its effective one takes this away, and with
 * it the files in /proc through which the parent writes the maps. There is no namespace
 * yet, so no process inside can trace this one. */
RAW_INLINE void let_the_parent_look(const struct launcher_parameters *own)
{
	if (own->is_dumpable && !own->namespaces.join_count)
		RAW2(prctl, PR_SET_DUMPABLE, 1);
}

RAW_INLINE __attribute__((noreturn)) void execute_command(const struct launcher_parameters *own,
							   const struct start *start)
{
	struct command command;

	/* Not only by the exec: until then a path below /proc/self/fd leads through them out of a new root. */
	close_if_there(own->cgroup);
	close_if_there(own->proc);
	command.argv = start->argv + 1;
	command.envp = start->argv + start->argc + 1;
	command.candidates = own->candidates;
	report(own, STEP_none, 0);
	set_signal_mask(own->signal_mask);
	set_up(own, BEFORE_EXEC);
	report(own, STEP_exec, -execute(&command));
	leave(255);
}

RAW_INLINE __attribute__((noreturn)) void launch(const struct start *start)
{
	_Alignas(struct launcher_parameters) char first[LAUNCHER_FIRST_CHUNK];
	int socket = socket_of(start);
	const struct launcher_parameters *own = receive_parameters(socket, first);
	struct monitored monitored;

	if (own->becomes)
		begin_to_become(own, socket);
	let_the_parent_look(own);
	set_close_on_exec(own, own->socket);
	set_close_on_exec(own, own->death.parent_pidfd);
	set_close_on_exec(own, own->cgroup);
	set_close_on_exec(own, own->proc);
	set_close_on_exec(own, own->init_socket);
	set_close_on_exec(own, own->monitor_socket);
	for (int i = 0; i < own->setup.fds.count; i++)
		set_close_on_exec(own, own->setup.fds.fds[i]);
	enter_cgroup(own);
	prepare_monitor(own, &monitored);
	enter_namespaces(own);
	create_namespaces(own);
	if (own->monitors)
		start_monitored(own, &monitored);
	wait_for_parent(own);
	if (own->is_helper)
		be_holder(own);
	become_unprivileged(own);
	if (own->init_socket >= 0)
		put_init_above(own, start);
	set_up(own, FOR_COMMAND);
	if (own->init_socket < 0 && has_parent(own)) /* after the ids: changing them clears it */
		die_with_parent(&own->death, own->death.signal);
	RAW2(prctl, PR_SET_NAME, own->name);
	execute_command(own, start);
}

#endif

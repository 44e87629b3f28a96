/* A user namespace as a descriptor, and nothing else left behind. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include "foster.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

static int map_and_open(pid_t pid, int pidfd, const struct maps *maps, const struct between *between,
			struct failure *failure)
{
	int proc_dir = open_proc_dir(pid, pidfd, failure), userns;

	if (proc_dir < 0)
		return -1;
	if (write_maps(proc_dir, maps, failure) < 0) {
		close(proc_dir);
		return -1;
	}
	if (between && between->call(between->context, pid, pidfd)) {
		close(proc_dir);
		return fail(failure, STEP_on_created, 0);
	}
	userns = open_ns(pidfd, proc_dir, failure);
	close(proc_dir);
	return userns;
}

/* The child shares memory and descriptors, so it costs the same in a process
 * of any size. Its exit signal is 0: it sends no SIGCHLD, no waitpid(-1) finds
 * it, and ignoring SIGCHLD does not reap it. It parks until it is killed. The
 * namespace is handed out only when nobody is left in it whom its root could
 * inspect. */
static int in_transient_child(struct child *child, const struct maps *maps, const struct between *between,
			      struct failure *failure)
{
	uint64_t mask = block_signals();
	int pidfd = -1, userns;
	long pid = raw_clone(CLONE_NEWUSER | CLONE_VM | CLONE_FILES | CLONE_PIDFD, stack_of(child),
			     &pidfd, NULL, transient_child, child);

	restore_signals(mask);
	if (pid < 0)
		return fail(failure, STEP_clone, (int)-pid);
	userns = map_and_open((pid_t)pid, pidfd, maps, between, failure);
	if (userns < 0)
		blame_its_end(pidfd, failure);
	kill_and_reap((pid_t)pid, pidfd);
	close(pidfd);
	return userns;
}

int create_userns(const struct maps *maps, const struct between *between, struct failure *failure)
{
	struct child *child = allocate_child();
	int userns;

	if (!child)
		return fail(failure, STEP_prepare, errno);
	child->death.parent = (int32_t)getpid();
	child->death.parent_pidfd = (int)RAW2(pidfd_open, getpid(), 0);
	if (child->death.parent_pidfd < 0) {
		userns = fail(failure, STEP_prepare, -child->death.parent_pidfd);
	} else {
		userns = in_transient_child(child, maps, between, failure);
		close(child->death.parent_pidfd);
	}
	free_child(child);
	return userns;
}

/* A change of ids in our memory would make us non-dumpable: a program of ours becomes
 * the owner and makes the namespace, and is held until that is mapped and open. */
static int in_holder(struct foster *foster, uint32_t owner, const struct maps *maps, const struct between *between,
		     struct failure *failure)
{
	static char *const nothing[] = {NULL};
	struct plan plan = {
		.maps = *maps,
		.is_alone = 1,
		.command = {nothing, nothing, nothing},
		.place = {.umask = -1, .process_group = -1, NAMES_OF_PLACE},
		.founding = {.owner = {1, owner}, .namespaces = CLONE_NEWUSER},
		.cgroup = -1,
		.death_signal = SIGKILL,
		.between = between ? between->call : NULL,
		.between_context = between ? between->context : NULL,
		.foster = foster,
	};
	struct spawned spawned;
	int proc_dir, userns = -1;

	if (spawn(&plan, &spawned, failure) < 0)
		return -1;
	proc_dir = open_proc_dir(spawned.pid, spawned.pidfd, failure);
	if (proc_dir >= 0) {
		userns = open_ns(spawned.pidfd, proc_dir, failure);
		close(proc_dir);
	}
	if (userns < 0)
		blame_its_end(spawned.pidfd, failure);
	kill_and_reap(spawned.pid, spawned.pidfd);
	close(spawned.pidfd);
	return userns;
}

int create_userns_of(uint32_t owner, const struct maps *maps, const struct between *between,
		     struct failure *failure)
{
	struct foster foster;
	int userns;

	if (start_foster(&foster, failure) < 0)
		return -1;
	userns = in_holder(&foster, owner, maps, between, failure);
	end_foster(&foster);
	return userns;
}

/* A user namespace as a descriptor, and nothing else left behind. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include "clone.h"

static int map_and_open(pid_t pid, int pidfd, const struct maps *maps, struct failure *failure)
{
	int proc_dir = open_proc_dir(pid, pidfd, failure), userns = -1;

	if (proc_dir < 0)
		return -1;
	if (write_maps(proc_dir, maps, failure) == 0)
		userns = open_ns(pidfd, proc_dir, failure);
	close(proc_dir);
	return userns;
}

/* The child shares memory and descriptors, so it costs the same in a process
 * of any size. Its exit signal is 0: it sends no SIGCHLD, no waitpid(-1) finds
 * it, and ignoring SIGCHLD does not reap it. It parks until it is killed. The
 * namespace is handed out only when no process is left in it that its root could
 * inspect. */
static int in_transient_child(struct child *child, const struct maps *maps, struct failure *failure)
{
	uint64_t mask = block_signals();
	int pidfd = -1, userns;
	long pid = clone_in_memory(child, CLONE_NEWUSER | CLONE_FILES, &pidfd, transient_child, child);

	restore_signals(mask);
	if (pid < 0)
		return fail(failure, STEP_clone, (int)-pid);
	userns = map_and_open((pid_t)pid, pidfd, maps, failure);
	if (userns < 0)
		failure_of_end(pidfd, failure);
	end_child((pid_t)pid, pidfd, userns < 0 ? failure : NULL);
	return userns;
}

int create_userns(const struct maps *maps, struct failure *failure)
{
	struct child *child = allocate_child();
	int userns = -1;

	if (!child)
		return fail(failure, STEP_prepare, ENOMEM);
	child->death.parent = (int32_t)getpid();
	child->death.parent_pidfd = borrow_self(&child->self, failure);
	if (child->death.parent_pidfd >= 0)
		userns = in_transient_child(child, maps, failure);
	give_back(child->self);
	free_child(child);
	return userns;
}

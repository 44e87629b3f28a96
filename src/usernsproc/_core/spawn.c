/* The parent's side of a command or a holder. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <unistd.h>

#include "reaper.h"
#include "inline.h"
#include "spawn.h"

static int needs_keeper(const struct plan *plan)
{
	return !plan->is_helper && plan->death_signal && !is_main_thread();
}

/* ---- from clone to exec ---- */

static void futex_wake(int32_t *word)
{
	__atomic_store_n(word, 1, __ATOMIC_RELEASE);
	RAW3(futex, word, FUTEX_WAKE, 1);
}

static int writes_maps(const struct plan *plan)
{
	return plan->maps.setgroups || plan->maps.uid_map || plan->maps.gid_map;
}

static void close_proc_dir(struct spawned *spawned)
{
	close_if_open(spawned->proc_dir);
	spawned->proc_dir = -1;
}

static int map(const struct plan *plan, struct spawned *spawned, struct failure *failure)
{
	int result = 0;

	if (!writes_maps(plan))
		return 0;
	if (spawned->proc_dir < 0)
		result = spawned->proc_dir = open_proc_dir(spawned->pid, spawned->pidfd, failure);
	if (result >= 0)
		result = write_maps(spawned->proc_dir, &plan->maps, failure);
	if (result < 0)
		failure_of_end(spawned->pidfd, failure);
	return result;
}

/* While a child in memory of its own waits: maps, and whatever the caller wants to do. */
static int prepare_child(const struct plan *plan, struct spawned *spawned, struct failure *failure)
{
	if (map(plan, spawned, failure) < 0)
		return -1;
	if (!plan->hook.call)
		return 0;
	close_proc_dir(spawned); /* of no use to the hook, which may fork */
	if (plan->hook.call(plan->hook.context, spawned->pid, spawned->pidfd))
		return fail(failure, STEP_on_created, 0);
	return has_ended(spawned->pidfd) ? fail(failure, STEP_on_created, ESRCH) : 0;
}

/* Until the child no longer shares the caller's memory. */
static int release_child(const struct plan *plan, struct child *child, const struct spawned *spawned,
		   struct failure *failure)
{
	enum step step = child->image < 0 ? STEP_exec : STEP_execveat;

	futex_wake(&child->go);
	if (wait_until_memory_is_left(child, spawned->pidfd, step, &plan->patience, failure) == WAIT_GAVE_UP)
		return -1;
	if (child->failure.step != STEP_none) {
		*failure = child->failure;
		return -1;
	}
	/* A holder says the rest itself; a command that was about to be executed
	 * has started, even if it was killed in the middle of that. */
	if (child->image < 0 && child->state != CHILD_EXECUTING)
		return fail(failure, STEP_on_created, ESRCH);
	return 0;
}

/* A holder's maps are written when it already runs alone: root inside does not own its program. One that
 * takes IDs needs them before. */
static int settle_holder(const struct plan *plan, struct spawned *spawned, struct failure *failure)
{
	int named;

	if (spawned->proc_dir < 0)
		spawned->proc_dir = open_proc_dir_of(spawned->pidfd);
	named = spawned->proc_dir;
	if (named >= 0 && wait_until_named(spawned, NAME_OF_HOLDER, &named, &plan->patience, failure) < 0)
		return -1;
	if (has_ended(spawned->pidfd))
		return fail(failure, STEP_prepare, ESRCH);
	if (named < 0 && named != -ENOENT) /* no /proc: it will do without */
		return fail(failure, STEP_open_proc, -named);
	return plan->setup.needs == OWN_MEMORY_AND_MAPS ? 0 : prepare_child(plan, spawned, failure);
}

static void close_end(int *end)
{
	close(*end);
	*end = -1;
}

/* It may have given up before its maps were written: that is why, then. Its files
 * in /proc are root's before the pidfd becomes readable. */
static int failure_of_child(const struct child *child, struct failure *failure)
{
	if (!failure->gave_up && __atomic_load_n(&child->failure.step, __ATOMIC_ACQUIRE) != STEP_none)
		*failure = child->failure;
	return -1;
}

/* It creates the namespaces, and waits for the maps itself. */
static int start_by_launcher(const struct plan *plan, struct child *child, int sockets[2], struct spawned *spawned,
			struct failure *failure)
{
	close_end(&sockets[1]); /* so that its end is the end of the child's copy */
	if (writes_maps(plan) && !needs_second_process(plan)) /* while it starts; else, or if in vain, later */
		spawned->proc_dir = open_proc_dir(spawned->pid, spawned->pidfd, failure);
	if (send_parameters(sockets[0], child->block, spawned, &plan->patience, failure) < 0 ||
	    wait_for_namespaces(sockets[0], plan, spawned, failure) < 0) {
		close_end(&sockets[0]); /* at which a child ends that the launcher has not reported */
		return failure_of_child(child, failure);
	}
	if (plan->is_helper) {
		if (plan->setup.needs == OWN_MEMORY_AND_MAPS && prepare_child(plan, spawned, failure) < 0)
			return failure_of_child(child, failure);
		if (release_launcher(sockets[0], failure) < 0)
			return -1;
		return settle_holder(plan, spawned, failure) < 0 ? failure_of_launcher(sockets[0], failure) : 0;
	}
	if (prepare_child(plan, spawned, failure) < 0)
		return failure_of_child(child, failure);
	if (release_launcher(sockets[0], failure) < 0)
		return -1;
	return read_report(sockets[0], spawned, &plan->patience, failure) < 0 ? failure_of_child(child, failure) : 0;
}

static int start_command(const struct plan *plan, struct child *child, struct spawned *spawned,
		       struct failure *failure)
{
	if (map(plan, spawned, failure) < 0)
		return failure_of_child(child, failure);
	if (release_child(plan, child, spawned, failure) < 0)
		return -1;
	wait_while(1, spawned, NAME_BEFORE_EXEC);
	return 0;
}

static int start_holder(const struct plan *plan, struct child *child, struct spawned *spawned,
		      struct failure *failure)
{
	return release_child(plan, child, spawned, failure) < 0 ? -1 : settle_holder(plan, spawned, failure);
}

/* It is kept: 0, 1 and 2 are left to a program that has closed them, and will open others there. */
static int move_pidfd_above_stdio(struct spawned *spawned, struct failure *failure)
{
	int above;

	if (spawned->pidfd > 2)
		return 0;
	above = fcntl(spawned->pidfd, F_DUPFD_CLOEXEC, 3);
	if (above < 0)
		return fail(failure, STEP_prepare, errno);
	close(spawned->pidfd);
	spawned->pidfd = above;
	return 0;
}

/* Returns whether nothing is left of it. */
static int end_spawned(struct child *child, struct spawned *spawned, struct failure *failure)
{
	int is_over = child->is_launcher ? end_group(spawned->pid, spawned->pidfd, failure)
					 : end_child(spawned->pid, spawned->pidfd, failure);

	spawned->pidfd = -1;
	return is_over;
}

static int start_cloned(const struct plan *plan, struct child *child, int sockets[2],
		    struct spawned *spawned, struct failure *failure)
{
	int result;

	if (child->is_launcher)
		result = start_by_launcher(plan, child, sockets, spawned, failure);
	else if (plan->is_helper)
		result = start_holder(plan, child, spawned, failure);
	else
		result = start_command(plan, child, spawned, failure);
	if (result == 0)
		result = move_pidfd_above_stdio(spawned, failure);
	close_proc_dir(spawned);
	return result;
}

static void clone_by(const struct plan *plan, struct clone_request *request)
{
	if (plan->reaper) {
		clone_in_reaper(plan->reaper, request, &plan->patience);
	} else if (needs_keeper(plan)) {
		clone_in_keeper(request);
	} else {
		block_signals();
		clone_child(request);
	}
}

static int clone_and_start(const struct plan *plan, struct child *child, int sockets[2],
		     struct spawned *spawned, struct failure *failure)
{
	struct clone_request *request = allocate_request(child, child->is_launcher ? 0 : plan->namespaces.flags);
	uint64_t mask = current_signal_mask();
	int result, is_over = 1;

	if (!request)
		return fail(failure, STEP_prepare, ENOMEM);
	request->has_second_process = needs_second_process(plan);
	child->signal_mask = plan->signal_mask ? *plan->signal_mask : mask;
	clone_by(plan, request);
	restore_signals(mask);
	if (request->pid < 0) {
		result = fail(failure, STEP_clone, (int)-request->pid);
	} else {
		spawned->pid = (pid_t)request->pid;
		spawned->pidfd = request->pidfd;
		result = start_cloned(plan, child, sockets, spawned, failure);
		if (result < 0)
			is_over = end_spawned(child, spawned, failure);
	}
	release_keeper(request, result == 0 || !is_over);
	free(request);
	return result;
}

/* ---- what is undone after ---- */

static void discard(struct child *child, int sockets[2])
{
	close_if_open(sockets[0]);
	close_if_open(sockets[1]);
	if (!child->image_is_shared)
		close_if_open(child->image);
	close_if_open(child->proc);
	close_if_open(child->cgroup);
	close_if_open(child->init_socket);
	if (child->death.parent_pidfd != child->self.fd)
		close_if_open(child->death.parent_pidfd);
	give_back(child->self);
	free(child->block);
	free(child->launcher_argv);
	free_child(child);
}

/* It may be kept for the next call, where it is. */
static int copy_above_targets(int *fd, const struct plan *plan, struct failure *failure)
{
	if (*fd >= plan->setup.least_fd)
		return 0;
	*fd = fcntl(*fd, F_DUPFD_CLOEXEC, plan->setup.least_fd);
	return *fd < 0 ? fail(failure, STEP_prepare, errno) : 0;
}

static int spawn_visibly(const struct plan *given, struct spawned *spawned, struct failure *failure)
{
	struct child *child = allocate_child();
	struct plan *plan;
	int sockets[2] = {-1, -1}, result = -1;

	spawned->pidfd = -1;
	spawned->ending = -1;
	spawned->proc_dir = -1;
	spawned->image_on_disk = 0;
	spawned->reaper = NULL;
	if (!child)
		return fail(failure, STEP_prepare, errno);
	plan = &child->plan;
	*plan = *given;
	child->death.signal = plan->death_signal;
	child->death.parent = plan->reaper ? plan->reaper->own_pid : (int32_t)getpid();
	child->death.parent_pidfd = borrow_self(&child->self, failure);
	if (child->death.parent_pidfd >= 0 && copy_above_targets(&child->death.parent_pidfd, plan, failure) == 0 &&
	    prepare_image(plan, child, sockets, spawned, failure) == 0)
		result = clone_and_start(plan, child, sockets, spawned, failure);
	if (result < 0 && failure->step >= STEP_COUNT + (int32_t)plan->setup.count) /* there is no such step */
		fail(failure, STEP_on_created, ESRCH);
	discard(child, sockets);
	if (result < 0)
		close_if_open(spawned->ending);
	return result;
}

int spawn(const struct plan *given, struct spawned *spawned, struct failure *failure)
{
	struct plan plan = *given;

	if (!plan.is_hidden)
		return spawn_visibly(given, spawned, failure);
	plan.reaper = start_reaper(&plan.patience, failure);
	if (!plan.reaper)
		return -1;
	if (spawn_visibly(&plan, spawned, failure) < 0) {
		end_reaper(plan.reaper);
		return -1;
	}
	spawned->reaper = plan.reaper;
	return 0;
}

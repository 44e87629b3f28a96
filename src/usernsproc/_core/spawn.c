/* The parent's side of a command or a holder. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "foster.h"
#include "inline.h"
#include "report.h"

static int needs_launcher(const struct plan *plan)
{
	const struct credentials *wanted = &plan->credentials;

	if (plan->founding.join_count || plan->founding.owner.is_set)
		return 1;
	return !plan->is_alone &&
	       (plan->is_init || wanted->uid.is_set || wanted->gid.is_set || wanted->set_groups);
}

static int needs_keeper(const struct plan *plan)
{
	return !plan->is_alone && plan->death_signal && !is_main_thread();
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
		blame_its_end(spawned->pidfd, failure);
	return result;
}

/* Before the child goes on, so that nothing of the command runs outside. */
static int move_to_cgroup(int cgroup, pid_t pid, struct failure *failure)
{
	char text[16];
	int fd = openat(cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC), error = 0;

	if (fd < 0)
		return fail(failure, STEP_cgroup, errno);
	snprintf(text, sizeof(text), "%d", (int)pid);
	if (write(fd, text, strlen(text)) < 0)
		error = errno;
	close(fd);
	return error ? fail(failure, STEP_cgroup, error) : 0;
}

/* While the child waits: maps, cgroup, and whatever the caller wants to do. */
static int prepare_child(const struct plan *plan, struct spawned *spawned, struct failure *failure)
{
	if (map(plan, spawned, failure) < 0)
		return -1;
	if (plan->cgroup >= 0 && !spawned->in_cgroup &&
	    move_to_cgroup(plan->cgroup, spawned->pid, failure) < 0)
		return -1;
	if (!plan->between)
		return 0;
	close_proc_dir(spawned); /* of no use to others, who may fork */
	if (plan->between(plan->between_context, spawned->pid, spawned->pidfd))
		return fail(failure, STEP_on_created, 0);
	return has_ended(spawned->pidfd) ? fail(failure, STEP_on_created, ESRCH) : 0;
}

/* Until the child no longer shares our memory. */
static int release(struct child *child, const struct spawned *spawned, struct failure *failure)
{
	futex_wake(&child->go);
	wait_until_memory_is_left(child, spawned->pidfd);
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

/* A holder's maps are written when it already runs alone: nobody who enters
 * the namespace meets our memory, and inside root does not own its program. */
static int settle_holder(const struct plan *plan, struct spawned *spawned, struct failure *failure)
{
	int named = wait_while(0, spawned, NAME_OF_HOLDER);

	if (has_ended(spawned->pidfd))
		return fail(failure, STEP_prepare, ESRCH);
	if (named < 0 && named != -ENOENT) /* no /proc: it will do without */
		return fail(failure, STEP_open_proc, -named);
	return prepare_child(plan, spawned, failure);
}

static void close_end(int *end)
{
	close(*end);
	*end = -1;
}

/* It may have given up before its maps were written: that is why, then. Its files
 * in /proc are root's before the pidfd tells of its end. */
static int blame_child(const struct child *child, struct failure *failure)
{
	if (__atomic_load_n(&child->failure.step, __ATOMIC_ACQUIRE) != STEP_none)
		*failure = child->failure;
	return -1;
}

/* It makes the namespaces, and waits for the maps itself. */
static int run_launcher(const struct plan *plan, struct child *child, int report[2], struct spawned *spawned,
			struct failure *failure)
{
	close_end(&report[1]); /* so that its end is the end of the child's copy */
	if (writes_maps(plan) && !has_successor(&plan->founding)) /* while it starts; else, or if in vain, later */
		spawned->proc_dir = open_proc_dir(spawned->pid, spawned->pidfd, failure);
	if (wait_until_founded(report[0], spawned, failure) < 0) {
		close_end(&report[0]); /* at which a successor ends that nobody has told of */
		kill_and_reap_group(spawned->pid, spawned->pidfd);
		return blame_child(child, failure);
	}
	if (plan->is_alone) {
		let_go_on(report[0]);
		return settle_holder(plan, spawned, failure) < 0 ? blame_launcher(report[0], failure) : 0;
	}
	if (prepare_child(plan, spawned, failure) < 0)
		return blame_child(child, failure);
	let_go_on(report[0]);
	return read_report(report[0], spawned, failure) < 0 ? blame_child(child, failure) : 0;
}

static int run_command(const struct plan *plan, struct child *child, struct spawned *spawned,
		       struct failure *failure)
{
	if (prepare_child(plan, spawned, failure) < 0)
		return blame_child(child, failure);
	if (release(child, spawned, failure) < 0)
		return -1;
	wait_while(1, spawned, NAME_BEFORE_EXEC);
	return 0;
}

static int run_holder(const struct plan *plan, struct child *child, struct spawned *spawned,
		      struct failure *failure)
{
	return release(child, spawned, failure) < 0 ? -1 : settle_holder(plan, spawned, failure);
}

/* It is kept: 0, 1 and 2 are left to who has closed them, and will open others there. */
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

static int run_born(const struct plan *plan, struct child *child, int report[2],
		    struct spawned *spawned, struct failure *failure)
{
	int result;

	if (child->is_launcher)
		result = run_launcher(plan, child, report, spawned, failure);
	else if (plan->is_alone)
		result = run_holder(plan, child, spawned, failure);
	else
		result = run_command(plan, child, spawned, failure);
	if (result == 0)
		result = move_pidfd_above_stdio(spawned, failure);
	if (result < 0)
		kill_and_reap(spawned->pid, spawned->pidfd);
	wait_until_memory_is_left(child, spawned->pidfd);
	close_proc_dir(spawned);
	if (result < 0) {
		close(spawned->pidfd);
		spawned->pidfd = -1;
	}
	return result;
}

static uint64_t current_signal_mask(void)
{
	uint64_t mask = 0;

	RAW4(rt_sigprocmask, SIG_BLOCK, 0, &mask, sizeof(mask));
	return mask;
}

static int run_child(const struct plan *plan, struct child *child, int report[2],
		     struct spawned *spawned, struct failure *failure)
{
	struct birth birth = {
		.child = child,
		.namespaces = (child->is_launcher ? 0 : plan->founding.namespaces) | flag_against_debugger(),
		.has_successor = child->is_launcher && has_successor(&plan->founding),
		.cgroup = plan->cgroup,
		.pidfd = -1,
	};
	uint64_t mask = current_signal_mask();
	int result;

	child->signal_mask = plan->signal_mask ? *plan->signal_mask : mask;
	child->tid = 1;
	if (plan->foster) {
		clone_in_foster(plan->foster, &birth);
	} else if (needs_keeper(plan)) {
		clone_in_keeper(&birth);
	} else {
		block_signals();
		clone_child(&birth);
	}
	restore_signals(mask);
	if (birth.pid < 0) {
		result = fail(failure, STEP_clone, (int)-birth.pid);
	} else {
		spawned->pid = (pid_t)birth.pid;
		spawned->pidfd = birth.pidfd;
		spawned->in_cgroup = birth.in_cgroup;
		result = run_born(plan, child, report, spawned, failure);
	}
	let_go_of_keeper(&birth, result == 0);
	return result;
}

/* ---- what is prepared before, and undone after ---- */

static char *const holder_argv[] = {"usernsproc-holder", NULL};
static char *const launcher_argv[] = {"usernsproc-launcher", NULL};

static struct holder_parameters holder_of(const struct plan *plan)
{
	struct holder_parameters parameters = {.has_lifeline = plan->death_signal != 0, .name = NAME_OF_HOLDER};

	return parameters;
}

/* Nothing of the parent's but a descriptor to know its end by. */
static void leave_holder_alone(struct plan *plan, struct child *child)
{
	plan->place.cwd = "/";
	plan->place.start_new_session = 1;
	plan->close_fds = 1;
	plan->keep_count = 0;
	plan->stdio[0] = child->death.parent_pidfd;
	plan->stdio[1] = plan->stdio[2] = -1;
	child->death.signal = 0; /* it looks after itself */
}

static int prepare_holder(const struct plan *plan, struct child *child, struct spawned *spawned,
			  struct failure *failure)
{
	struct holder_parameters parameters = holder_of(plan);

	set_image(child,
		  make_image(PROGRAM_HOLDER, &parameters, sizeof(parameters), &spawned->image_on_disk, failure),
		  holder_argv);
	return child->image < 0 ? -1 : 0;
}

static int prepare_launcher(const struct plan *plan, struct child *child, struct spawned *spawned,
			    struct failure *failure)
{
	struct launcher_parameters parameters = {
		.is_holder = plan->is_alone,
		.is_dumpable = !may_inspect_all(),
		.has_group = getpgrp() > 0,
		.is_init = plan->is_init,
		.report = child->report,
		.founding = plan->founding,
		.command = plan->command,
		.place = plan->place,
		.credentials = plan->credentials,
		.privileges = plan->privileges,
		.death = child->death,
		.signal_mask = plan->signal_mask ? *plan->signal_mask : current_signal_mask(),
		.holder = holder_of(plan),
		.name = NAME_BEFORE_EXEC,
		.init_name = NAME_OF_INIT,
	};

	child->is_launcher = 1;
	set_image(child, make_launcher_image(&parameters, &spawned->image_on_disk, failure), launcher_argv);
	return child->image < 0 ? -1 : 0;
}

/* The program of ours that it takes, if any. */
static int prepare_image(struct plan *plan, struct child *child, int report[2], struct spawned *spawned,
			 struct failure *failure)
{
	if (plan->is_alone)
		leave_holder_alone(plan, child);
	if (!needs_launcher(plan))
		return plan->is_alone ? prepare_holder(plan, child, spawned, failure) : 0;
	if (open_report(report, failure) < 0)
		return -1;
	child->report = report[1];
	return prepare_launcher(plan, child, spawned, failure);
}

int spawn(const struct plan *given, struct spawned *spawned, struct failure *failure)
{
	struct plan plan = *given;
	struct child *child = allocate_child();
	int report[2] = {-1, -1}, result = -1;

	spawned->pidfd = -1;
	spawned->proc_dir = -1;
	spawned->image_on_disk = 0;
	if (!child)
		return fail(failure, STEP_prepare, errno);
	child->plan = &plan;
	child->death.signal = plan.death_signal;
	child->death.parent = plan.foster ? plan.foster->own_pid : (int32_t)getpid();
	child->death.parent_pidfd = open_self(failure);
	if (child->death.parent_pidfd >= 0 && prepare_image(&plan, child, report, spawned, failure) == 0)
		result = run_child(&plan, child, report, spawned, failure);
	close_if_open(report[0]);
	close_if_open(report[1]);
	close_if_open(child->image);
	close_if_open(child->death.parent_pidfd);
	free_child(child);
	return result;
}

/* The parent's side of a command or a holder. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "birth.h"

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

static int map(const struct plan *plan, const struct spawned *spawned, struct failure *failure)
{
	int proc_dir, result;

	if (!plan->maps.setgroups && !plan->maps.uid_map && !plan->maps.gid_map)
		return 0;
	proc_dir = open_proc_dir(spawned->pid, spawned->pidfd, failure);
	if (proc_dir < 0)
		return -1;
	result = write_maps(proc_dir, &plan->maps, failure);
	close(proc_dir);
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
static int prepare_child(const struct plan *plan, const struct spawned *spawned, struct failure *failure)
{
	if (map(plan, spawned, failure) < 0)
		return -1;
	if (plan->cgroup >= 0 && !spawned->in_cgroup &&
	    move_to_cgroup(plan->cgroup, spawned->pid, failure) < 0)
		return -1;
	if (!plan->between)
		return 0;
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
	/* An image says the rest itself; a command that was about to be
	 * executed has started, even if it was killed in the middle of that. */
	if (child->image < 0 && child->state != CHILD_EXECUTING)
		return fail(failure, STEP_on_created, ESRCH);
	return 0;
}

static int is_ready(const struct pollfd *end)
{
	return end->revents & (POLLIN | POLLHUP | POLLERR);
}

/* The launcher tells that it executes the command, and then closes the pipe by
 * exec, or tells what failed. Should a fork in another thread have copied the other
 * end of the pipe, so that it stays open, the name tells. */
static int read_report(int report, const struct spawned *spawned, struct failure *failure)
{
	struct pollfd ends[2] = {{.fd = report, .events = POLLIN}, {.fd = spawned->pidfd, .events = POLLIN}};
	struct failure told;
	int executing = 0;

	for (;;) {
		ends[0].revents = ends[1].revents = 0;
		poll(ends, 2, executing ? 10 : -1);
		if (is_ready(&ends[0])) {
			ssize_t length = read(report, &told, sizeof(told));

			if (length < 0 && errno == EINTR)
				continue;
			if (length != (ssize_t)sizeof(told))
				break;
			if (told.step != STEP_none) {
				*failure = told;
				return -1;
			}
			executing = 1;
		} else if (is_ready(&ends[1]) || (executing && is_named(spawned->pid, spawned->pidfd, NAME_BEFORE_EXEC) == 0)) {
			break;
		}
	}
	return executing ? 0 : fail(failure, STEP_on_created, ESRCH);
}

static int run_command(const struct plan *plan, struct child *child, int report_read,
		       struct spawned *spawned, struct failure *failure)
{
	if (prepare_child(plan, spawned, failure) < 0) {
		/* It may have given up before its maps were written: that is why, then.
		 * Its files in /proc are root's before the pidfd tells of its end. */
		if (__atomic_load_n(&child->failure.step, __ATOMIC_ACQUIRE) != STEP_none)
			*failure = child->failure;
		return -1;
	}
	if (release(child, spawned, failure) < 0)
		return -1;
	if (report_read < 0) {
		wait_while(1, spawned->pid, spawned->pidfd, NAME_BEFORE_EXEC);
		return 0;
	}
	close(child->report); /* the child's copy alone keeps it open */
	child->report = -1;
	return read_report(report_read, spawned, failure);
}

/* A holder's maps are written when it already runs alone: nobody who enters
 * the namespace meets our memory, and inside root does not own its program. */
static int run_holder(const struct plan *plan, struct child *child, struct spawned *spawned,
		      struct failure *failure)
{
	int named;

	if (release(child, spawned, failure) < 0)
		return -1;
	named = wait_while(0, spawned->pid, spawned->pidfd, NAME_OF_HOLDER);
	if (has_ended(spawned->pidfd))
		return fail(failure, STEP_prepare, ESRCH);
	if (named < 0 && named != -ENOENT) /* no /proc: it will do without */
		return fail(failure, STEP_open_proc, -named);
	return prepare_child(plan, spawned, failure);
}

static int run_born(const struct plan *plan, struct child *child, int report_read,
		    struct spawned *spawned, struct failure *failure)
{
	int result = plan->is_alone ? run_holder(plan, child, spawned, failure)
				     : run_command(plan, child, report_read, spawned, failure);

	if (result < 0) {
		kill_and_reap(spawned->pid, spawned->pidfd);
		wait_until_memory_is_left(child, spawned->pidfd);
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

static int run_child(const struct plan *plan, struct child *child, int report_read,
		     struct spawned *spawned, struct failure *failure)
{
	struct birth birth = {
		.child = child, .namespaces = plan->namespaces, .cgroup = plan->cgroup, .pidfd = -1};
	uint64_t mask = current_signal_mask();
	int result;

	child->signal_mask = plan->signal_mask ? *plan->signal_mask : mask;
	child->tid = 1;
	if (needs_keeper(plan)) {
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
		result = run_born(plan, child, report_read, spawned, failure);
	}
	let_go_of_keeper(&birth, result == 0);
	return result;
}

/* ---- what is prepared before, and undone after ---- */

static int changes_ids(const struct plan *plan)
{
	const struct credentials *wanted = &plan->credentials;

	return !plan->is_alone && (wanted->set_uid || wanted->set_gid || wanted->set_groups);
}

static char *const holder_argv[] = {"usernsproc-holder", NULL};
static char *const launcher_argv[] = {"usernsproc-launcher", NULL};

/* Nothing of the parent's but a descriptor to know its end by. */
static int prepare_holder(struct plan *plan, struct child *child, struct spawned *spawned,
			  struct failure *failure)
{
	struct holder_parameters parameters = {.has_lifeline = plan->death_signal != 0, .name = NAME_OF_HOLDER};

	plan->cwd = "/";
	plan->close_fds = plan->start_new_session = 1;
	plan->keep_count = 0;
	plan->stdio[0] = child->death.parent_pidfd;
	plan->stdio[1] = plan->stdio[2] = -1;
	child->death.signal = 0; /* it looks after itself */
	set_image(child,
		  make_image(PROGRAM_HOLDER, &parameters, sizeof(parameters), &spawned->image_on_disk, failure),
		  holder_argv);
	return child->image < 0 ? -1 : 0;
}

static int prepare_launcher(const struct plan *plan, struct child *child, uint64_t mask,
			    struct spawned *spawned, struct failure *failure)
{
	struct launcher_parameters parameters = {
		.command = plan->command,
		.credentials = plan->credentials,
		.privileges = plan->privileges,
		.death = child->death,
		.signal_mask = mask,
		.report = child->report,
		.name = NAME_BEFORE_EXEC,
	};

	child->changes_ids = 1;
	set_image(child, make_launcher_image(&parameters, &spawned->image_on_disk, failure), launcher_argv);
	return child->image < 0 ? -1 : 0;
}

int spawn(const struct plan *given, struct spawned *spawned, struct failure *failure)
{
	struct plan plan = *given;
	struct child *child = allocate_child();
	int report[2] = {-1, -1}, result = -1;

	spawned->pidfd = -1;
	spawned->image_on_disk = 0;
	if (!child)
		return fail(failure, STEP_prepare, errno);
	child->plan = &plan;
	child->death.signal = plan.death_signal;
	child->death.parent = (int32_t)getpid();
	child->death.parent_pidfd = open_self(failure);
	if (child->death.parent_pidfd < 0)
		goto out;
	if (plan.is_alone) {
		if (prepare_holder(&plan, child, spawned, failure) < 0)
			goto out;
	} else if (changes_ids(&plan)) {
		if (open_report(report, failure) < 0)
			goto out;
		child->report = report[1];
		report[1] = -1; /* the child's from here on */
		uint64_t mask = plan.signal_mask ? *plan.signal_mask : current_signal_mask();

		if (prepare_launcher(&plan, child, mask, spawned, failure) < 0)
			goto out;
	}
	result = run_child(&plan, child, report[0], spawned, failure);
out:
	close_if_open(report[0]);
	close_if_open(report[1]);
	close_if_open(child->report);
	close_if_open(child->image);
	close_if_open(child->death.parent_pidfd);
	free_child(child);
	return result;
}

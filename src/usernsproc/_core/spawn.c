/* The parent's side of a command or a holder. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "stack.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef __WALL
#define __WALL 0x40000000
#endif
#ifndef __WNOTHREAD
#define __WNOTHREAD 0x20000000
#endif

#define LIVENESS_CHECK_NANOSECONDS 200000000

/* ---- clone, by this thread or by a keeper ---- */

/* What it takes to start the child, and what came of it. */
struct birth {
	struct child *child;
	unsigned long namespaces;
	int cgroup;
	int in_cgroup; /* it was placed there already */
	long pid;      /* or -errno */
	int pidfd;
	int has_keeper;
	pthread_t keeper;
	sem_t done;
};

#define CLONE_FLAGS (CLONE_VM | CLONE_PIDFD | CLONE_CHILD_CLEARTID)

/* Only clone3(2) can place a child in a cgroup, and make a time namespace, whose
 * flag is part of the exit signal in clone(2). */
static long clone_by_clone3(struct birth *birth)
{
	struct raw_clone_args arguments = {
		.flags = CLONE_FLAGS | birth->namespaces,
		.pidfd = (uintptr_t)&birth->pidfd,
		.child_tid = (uintptr_t)&birth->child->tid,
	};

	if (birth->cgroup >= 0) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = (uint64_t)birth->cgroup;
	}
	return raw_clone3(&arguments, stack_bottom_of(birth->child), stack_of(birth->child), spawned_child,
			  birth->child);
}

static long clone_by_clone(struct birth *birth)
{
	return raw_clone(birth->namespaces | CLONE_FLAGS, stack_of(birth->child), &birth->pidfd,
			 &birth->child->tid, spawned_child, birth->child);
}

/* clone(2) is preferred: seccomp profiles refuse clone3(2), whose flags they
 * cannot see. Whatever the reason was, where clone(2) will do it says more. */
static void clone_child(struct birth *birth)
{
	if (birth->cgroup >= 0 || birth->namespaces & CLONE_NEWTIME) {
		birth->pid = clone_by_clone3(birth);
		if (birth->pid >= 0)
			birth->in_cgroup = birth->cgroup >= 0;
		if (birth->pid >= 0 || birth->namespaces & CLONE_NEWTIME)
			return;
	}
	birth->pid = clone_by_clone(birth);
}

/* The kernel sends PR_SET_PDEATHSIG when the creating *thread* ends. So a child
 * that is to live as long as the process is made by a thread that lives as long
 * as the child. It is made by the calling thread and so has its affinity,
 * namespaces, seccomp filter and credentials; it sleeps until its only child
 * can be reaped, and leaves the reaping to others.
 *
 * A pthread and no bare clone: libc's setuid() has to find it.
 */
static void *keep(void *argument)
{
	struct birth *birth = argument;
	sigset_t all;
	siginfo_t info;
	long pid;

	clone_child(birth);
	pid = birth->pid;
	/* All but the signals that libc itself needs to reach every thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	sem_post(&birth->done); /* `birth` may be gone from here on */
	if (pid < 0)
		return NULL;
	while (waitid(P_ALL, 0, &info, WEXITED | WNOWAIT | __WALL | __WNOTHREAD) < 0 && errno == EINTR)
		;
	return NULL;
}

static int start_keeper(struct birth *birth)
{
	pthread_attr_t attributes;
	int error = pthread_attr_init(&attributes);

	if (error)
		return error;
	/* Ample; where libc wants more (much static TLS), its own default. */
	pthread_attr_setstacksize(&attributes, 0x20000);
	error = pthread_create(&birth->keeper, &attributes, keep, birth);
	if (error == EINVAL)
		error = pthread_create(&birth->keeper, NULL, keep, birth);
	pthread_attr_destroy(&attributes);
	return error;
}

static void clone_in_keeper(struct birth *birth)
{
	int error;

	sem_init(&birth->done, 0, 0);
	error = start_keeper(birth);
	if (error) {
		birth->pid = -error;
	} else {
		birth->has_keeper = 1;
		while (sem_wait(&birth->done) < 0)
			;
	}
	sem_destroy(&birth->done);
}

/* Without a child it ends at once: wait, so that a failed call leaves no
 * thread. With one it ends by itself. */
static void let_go_of_keeper(struct birth *birth, int has_child)
{
	if (!birth->has_keeper)
		return;
	if (has_child)
		pthread_detach(birth->keeper);
	else
		pthread_join(birth->keeper, NULL);
}

static int is_main_thread(void)
{
	return RAW0(gettid) == getpid();
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

/* The kernel clears the word and wakes us when the child leaves this memory, by
 * exec or by its end. Kernels before 5.16 do not after a core dump, hence the
 * look at the pidfd now and then. */
static void wait_until_memory_is_left(struct child *child, int pidfd)
{
	struct {
		int64_t seconds, nanoseconds;
	} limit = {0, LIVENESS_CHECK_NANOSECONDS};
	int32_t tid;

	while ((tid = __atomic_load_n(&child->tid, __ATOMIC_ACQUIRE)) != 0) {
		if (RAW4(futex, &child->tid, FUTEX_WAIT, tid, &limit) == -ETIMEDOUT && has_ended(pidfd))
			return;
	}
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
	if (result < 0 && has_ended(spawned->pidfd)) /* somebody killed it meanwhile */
		failure->error = ESRCH;
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

/* The launcher tells that it executes the command, and then closes the pipe by
 * exec, or tells what failed. */
static int read_report(int report, struct failure *failure)
{
	struct failure told;
	int executing = 0;

	for (;;) {
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
	}
	return executing ? 0 : fail(failure, STEP_on_created, ESRCH);
}

static int run_command(const struct plan *plan, struct child *child, int report_read,
		       struct spawned *spawned, struct failure *failure)
{
	if (prepare_child(plan, spawned, failure) < 0) {
		/* It may have given up before its maps were written: that is why, then. */
		if (has_ended(spawned->pidfd) && child->failure.step != STEP_none)
			*failure = child->failure;
		return -1;
	}
	if (release(child, spawned, failure) < 0)
		return -1;
	if (report_read < 0)
		return 0;
	close(child->report); /* the child's copy alone keeps it open */
	child->report = -1;
	return read_report(report_read, failure);
}

/* A holder's maps are written when it already runs alone: nobody who enters
 * the namespace meets our memory, and inside root does not own its program. */
static int run_holder(const struct plan *plan, struct child *child, int report_read,
		      struct spawned *spawned, struct failure *failure)
{
	char nothing;

	if (release(child, spawned, failure) < 0)
		return -1;
	close(child->report); /* the holder closes its copy when it is ready */
	child->report = -1;
	while (read(report_read, &nothing, 1) < 0 && errno == EINTR)
		;
	if (has_ended(spawned->pidfd))
		return fail(failure, STEP_prepare, ESRCH);
	return prepare_child(plan, spawned, failure);
}

static int run_born(const struct plan *plan, struct child *child, int report_read,
		    struct spawned *spawned, struct failure *failure)
{
	int result = plan->is_alone ? run_holder(plan, child, report_read, spawned, failure)
				     : run_command(plan, child, report_read, spawned, failure);

	if (result < 0) {
		kill_and_reap(spawned->pidfd);
		wait_until_memory_is_left(child, spawned->pidfd);
		close(spawned->pidfd);
		spawned->pidfd = -1;
	}
	return result;
}

static int run_child(const struct plan *plan, struct child *child, int report_read,
		     struct spawned *spawned, struct failure *failure)
{
	struct birth birth = {
		.child = child, .namespaces = plan->namespaces, .cgroup = plan->cgroup, .pidfd = -1};
	uint64_t mask = block_signals();
	int result;

	child->signal_mask = mask;
	child->tid = 1;
	if (needs_keeper(plan))
		clone_in_keeper(&birth);
	else
		clone_child(&birth);
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

/* A pidfd of this process, for who has to know whether it lives. */
static int open_self(struct failure *failure)
{
	long self = RAW2(pidfd_open, getpid(), 0), above;

	if (self < 0)
		return fail(failure, STEP_prepare, (int)-self);
	if (self > 2)
		return (int)self;
	above = RAW3(fcntl, self, F_DUPFD_CLOEXEC, 3);
	RAW1(close, self);
	return above < 0 ? fail(failure, STEP_prepare, (int)-above) : (int)above;
}

static int open_report(int report[2], struct failure *failure)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return fail(failure, STEP_prepare, errno);
	for (int i = 0; i < 2; i++) {
		report[i] = fcntl(ends[i], F_DUPFD_CLOEXEC, 3);
		if (report[i] < 0)
			fail(failure, STEP_prepare, errno);
	}
	close(ends[0]);
	close(ends[1]);
	return report[0] < 0 || report[1] < 0 ? -1 : 0;
}

static char *const holder_argv[] = {"usernsproc-holder", NULL};
static char *const launcher_argv[] = {"usernsproc-launcher", NULL};
static char *const no_environment[] = {NULL};

/* Nothing of the parent's but a descriptor to know its end by. */
static int prepare_holder(struct plan *plan, struct child *child, struct spawned *spawned,
			  struct failure *failure)
{
	struct holder_parameters parameters = {.has_lifeline = plan->death_signal != 0,
					       .name = "usernsproc-hold"};

	plan->cwd = "/";
	plan->close_fds = plan->start_new_session = 1;
	plan->keep_count = 0;
	plan->stdio[0] = child->death.parent_pidfd;
	plan->stdio[1] = child->report;
	plan->stdio[2] = -1;
	child->death.signal = 0; /* it looks after itself */
	child->image_argv = holder_argv;
	child->image_envp = no_environment;
	child->image =
		make_image(PROGRAM_HOLDER, &parameters, sizeof(parameters), &spawned->image_on_disk, failure);
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
	};

	child->changes_ids = 1;
	child->image_argv = launcher_argv;
	child->image_envp = no_environment;
	child->image = make_launcher_image(&parameters, &spawned->image_on_disk, failure);
	return child->image < 0 ? -1 : 0;
}

static uint64_t current_signal_mask(void)
{
	uint64_t mask = 0;

	RAW4(rt_sigprocmask, SIG_BLOCK, 0, &mask, sizeof(mask));
	return mask;
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
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
	if (plan.is_alone || changes_ids(&plan)) {
		if (open_report(report, failure) < 0)
			goto out;
		child->report = report[1];
		report[1] = -1; /* the child's from here on */
	}
	if (plan.is_alone) {
		if (prepare_holder(&plan, child, spawned, failure) < 0)
			goto out;
	} else if (changes_ids(&plan)) {
		if (prepare_launcher(&plan, child, current_signal_mask(), spawned, failure) < 0)
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

/* ---- reading the maps of a namespace ---- */

static ssize_t read_until_end(int fd, char *buffer, size_t size)
{
	size_t length = 0;

	while (length < size) {
		ssize_t part = read(fd, buffer + length, size - length);

		if (part < 0 && errno == EINTR)
			continue;
		if (part <= 0)
			break;
		length += (size_t)part;
	}
	return (ssize_t)length;
}

static ssize_t read_told_maps(int from, char *buffer, size_t size, struct failure *failure)
{
	struct failure told;

	if (read_until_end(from, (char *)&told, sizeof(told)) != (ssize_t)sizeof(told))
		return fail(failure, STEP_read_map, ESRCH);
	if (told.step != STEP_none) {
		*failure = told;
		return -1;
	}
	return read_until_end(from, buffer, size);
}

/* A program of ours enters the namespace and tells. Not a child in our memory:
 * whoever is root in there could look into it. */
static int start_map_reader(struct child *child, int userns, int *from, struct failure *failure)
{
	static const struct map_reader_parameters parameters = {"/proc/self/uid_map", "/proc/self/gid_map"};
	struct plan plan = {.stdio = {userns, -1, -1}, .umask = -1, .process_group = -1, .close_fds = 1,
			    .cgroup = -1, .is_alone = 1, .death_signal = SIGKILL};
	struct birth birth = {.child = child, .cgroup = -1, .pidfd = -1};
	int report[2] = {-1, -1}, on_disk = 0;
	uint64_t mask;

	if (open_report(report, failure) < 0)
		return -1;
	*from = report[0];
	plan.stdio[1] = report[1];
	child->plan = &plan;
	child->image = make_image(PROGRAM_MAP_READER, &parameters, sizeof(parameters), &on_disk, failure);
	child->image_argv = launcher_argv;
	child->image_envp = no_environment;
	child->tid = child->go = 1;
	if (child->image >= 0) {
		mask = block_signals();
		clone_child(&birth);
		restore_signals(mask);
		if (birth.pid < 0)
			fail(failure, STEP_clone, (int)-birth.pid);
		else
			wait_until_memory_is_left(child, birth.pidfd);
	}
	close(report[1]);
	close_if_open(child->image);
	return birth.pidfd;
}

ssize_t read_maps(int userns, char *buffer, size_t size, struct failure *failure)
{
	struct child *child = allocate_child();
	ssize_t length = -1;
	int from = -1, pidfd;

	if (!child)
		return fail(failure, STEP_prepare, errno);
	child->death.parent = (int32_t)getpid();
	child->death.signal = SIGKILL;
	child->death.parent_pidfd = open_self(failure);
	if (child->death.parent_pidfd >= 0) {
		pidfd = start_map_reader(child, userns, &from, failure);
		if (pidfd >= 0) {
			if (child->failure.step != STEP_none)
				*failure = child->failure;
			else
				length = read_told_maps(from, buffer, size, failure);
			kill_and_reap(pidfd);
			close(pidfd);
		}
		close_if_open(from);
		close(child->death.parent_pidfd);
	}
	free_child(child);
	return length;
}

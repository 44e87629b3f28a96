/* The maps of a user namespace, from its descriptor alone. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "foster.h"
#include "proven_proc.h"

static char *const map_reader_argv[] = {"usernsproc-map-reader", NULL};

/* All that it has written, also when a fork in another thread has copied the other
 * end of the pipe, so that there is no end of file. */
static ssize_t read_until_ended(int from, int pidfd, char *buffer, size_t size)
{
	/* In this order: what ends after the first look has written before the second. */
	struct pollfd ends[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = from, .events = POLLIN}};
	size_t length = 0;

	while (length < size) {
		ssize_t part;

		ends[0].revents = ends[1].revents = 0;
		if (poll(ends, 2, -1) < 0)
			continue;
		if (!(ends[1].revents & POLLIN))
			break;
		part = read(from, buffer + length, size - length);
		if (part < 0 && errno != EINTR)
			return -1;
		if (part == 0)
			break;
		if (part > 0)
			length += (size_t)part;
	}
	return (ssize_t)length;
}

/* What was asked for, and then whether that is all. */
static ssize_t read_told_maps(int from, int pidfd, char *buffer, size_t size, struct failure *failure)
{
	ssize_t length = read_until_ended(from, pidfd, buffer, size);
	struct failure told;

	if (length < (ssize_t)sizeof(told))
		return fail(failure, STEP_read_map, length < 0 ? errno : ESRCH);
	length -= (ssize_t)sizeof(told);
	memcpy(&told, buffer + length, sizeof(told));
	if (told.step == STEP_none)
		return length;
	if (told.step < 0 || told.step >= STEP_COUNT) /* it was cut off */
		return fail(failure, STEP_read_map, ESRCH);
	*failure = told;
	return -1;
}

/* A program of ours enters the namespace and tells. Not a child in our memory:
 * whoever is root in there could look into it. */
static pid_t start_map_reader(struct child *child, struct foster *foster, int userns, int proc, int *from,
			      int *pidfd, struct failure *failure)
{
	static const struct map_reader_parameters parameters = {
		.files = {"self/uid_map", "self/gid_map", "self/setgroups"},
	};
	struct plan plan = {.stdio = {userns, -1, proc}, .place = {.umask = -1, .process_group = -1}, .close_fds = 1,
			    .cgroup = -1, .is_alone = 1, .death_signal = SIGKILL};
	struct birth birth = {.child = child, .cgroup = -1, .pid = -1, .pidfd = -1};
	int report[2] = {-1, -1}, on_disk = 0;

	if (open_pipe(report, failure) < 0)
		return -1;
	*from = report[0];
	plan.stdio[1] = report[1];
	child->plan = &plan;
	set_image(child, make_image(PROGRAM_MAP_READER, &parameters, sizeof(parameters), &on_disk, failure),
		  map_reader_argv);
	child->tid = child->go = 1;
	if (child->image >= 0) {
		clone_in_foster(foster, &birth);
		if (birth.pid < 0)
			fail(failure, STEP_clone, (int)-birth.pid);
		else
			wait_until_memory_is_left(child, birth.pidfd);
	}
	close(report[1]);
	close_if_open(child->image);
	*pidfd = birth.pidfd;
	return (pid_t)birth.pid;
}

static ssize_t read_maps_by(struct child *child, struct foster *foster, int userns, char *buffer, size_t size,
			    struct failure *failure)
{
	int from = -1, pidfd = -1, proc = open_proc_root();
	ssize_t length = -1;
	pid_t pid;

	if (proc < 0)
		return fail(failure, STEP_open_proc, -proc);
	pid = start_map_reader(child, foster, userns, proc, &from, &pidfd, failure);
	close(proc);
	if (pid > 0) {
		if (child->failure.step != STEP_none)
			*failure = child->failure;
		else
			length = read_told_maps(from, pidfd, buffer, size, failure);
		kill_and_reap(pid, pidfd);
		close(pidfd);
	}
	close_if_open(from);
	return length;
}

ssize_t read_maps(int userns, char *buffer, size_t size, struct failure *failure)
{
	struct child *child = allocate_child();
	struct foster foster;
	ssize_t length = -1;

	if (!child)
		return fail(failure, STEP_prepare, errno);
	child->death.signal = SIGKILL;
	child->death.parent_pidfd = open_self(failure);
	if (child->death.parent_pidfd >= 0 && start_foster(&foster, failure) == 0) {
		child->death.parent = foster.own_pid;
		length = read_maps_by(child, &foster, userns, buffer, size, failure);
		end_foster(&foster);
	}
	close_if_open(child->death.parent_pidfd);
	free_child(child);
	return length;
}

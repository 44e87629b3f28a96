/* The maps of a user namespace, from its descriptor alone. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reaper.h"
#include "proven_proc.h"

static char *const map_reader_argv[] = {"usernsproc-map-reader", NULL};

/* What it has written so far. */
struct reading {
	int from, error;
	char *buffer;
	size_t size, length;
};

static int is_read(void *context)
{
	struct reading *reading = context;

	while (reading->length < reading->size) {
		ssize_t part = read(reading->from, reading->buffer + reading->length, reading->size - reading->length);

		if (part < 0 && errno == EINTR)
			continue;
		if (part < 0 && errno == EAGAIN)
			return 0;
		reading->error = part < 0 ? errno : 0;
		if (part <= 0)
			return 1;
		reading->length += (size_t)part;
	}
	return 1;
}

/* What was asked for, and then whether that is all. */
static ssize_t read_reported_maps(struct reading *reading, int pidfd, const struct patience *patience,
			      struct failure *failure)
{
	struct event event = {.has_happened = is_read, .context = reading, .socket = reading->from, .wakes = POLLIN,
			      .pidfd = pidfd, .step = STEP_read_map};
	struct report report;
	size_t length;

	/* Its end ends this, too: a fork in another thread may have copied the other end of the pipe. */
	if (wait_for(&event, patience, failure) == WAIT_GAVE_UP)
		return -1;
	if (reading->error || reading->length < sizeof(report))
		return fail(failure, STEP_read_map, reading->error ? reading->error : ESRCH);
	length = reading->length - sizeof(report);
	memcpy(&report, reading->buffer + length, sizeof(report));
	if (report.step == STEP_none)
		return (ssize_t)length;
	/* Or it was cut off. */
	return report.step < 0 || report.step >= STEP_COUNT ? fail(failure, STEP_read_map, ESRCH)
							 : fail(failure, (enum step)report.step, report.error);
}

/* A helper program enters the namespace and reports. Not a child in the caller's memory:
 * root of the namespace could look into it. */
static pid_t start_map_reader(struct child *child, struct reaper *reaper, int to, int *pidfd,
			      const struct patience *patience, struct failure *failure)
{
	static const struct map_reader_parameters parameters = {
		.files = {"self/uid_map", "self/gid_map", "self/setgroups"},
	};
	struct clone_request *request = allocate_request(child, 0);
	int on_disk = 0;
	pid_t pid = -1;

	if (request)
		set_image(child,
			  make_image(PROGRAM_MAP_READER, &parameters, sizeof(parameters), &on_disk, failure),
			  map_reader_argv, no_environment);
	else
		fail(failure, STEP_prepare, ENOMEM);
	child->go = 1;
	if (child->image >= 0) {
		clone_in_reaper(reaper, request, patience);
		if (request->pid < 0)
			fail(failure, STEP_clone, (int)-request->pid);
		pid = (pid_t)request->pid;
		*pidfd = request->pidfd;
	}
	close(to);
	close_if_open(child->image);
	free(request);
	return pid;
}

static ssize_t read_maps_by(struct child *child, struct reaper *reaper, int userns, char *buffer, size_t size,
			    const struct patience *patience, struct failure *failure)
{
	struct reading reading = {.buffer = buffer, .size = size};
	struct borrowed proc = borrow_proc_root();
	int ends[2], pidfd = -1;
	ssize_t length = -1;
	pid_t pid;

	if (proc.fd < 0)
		return fail(failure, STEP_open_proc, -proc.fd);
	child->proc = proc_to_close_by(failure);
	if (child->proc == -2 || open_pipe(ends, failure) < 0) {
		give_back(proc);
		return -1;
	}
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	reading.from = ends[0];
	child->plan = (struct plan){.stdio = {userns, ends[1], proc.fd}, .setup = setup_of_helper,
				    .close_fds = 1, .cgroup = -1, .is_helper = 1, .death_signal = SIGKILL};
	pid = start_map_reader(child, reaper, ends[1], &pidfd, patience, failure);
	if (pid > 0) {
		if (wait_until_memory_is_left(child, pidfd, STEP_execveat, patience, failure) != WAIT_GAVE_UP) {
			if (child->failure.step != STEP_none) {
				*failure = child->failure;
				name_call_of_helper(failure);
			}
			else
				length = read_reported_maps(&reading, pidfd, patience, failure);
		}
		end_child(pid, pidfd, length < 0 ? failure : NULL);
	}
	give_back(proc);
	close(ends[0]);
	return length;
}

ssize_t read_maps(int userns, char *buffer, size_t size, const struct patience *patience, struct failure *failure)
{
	struct child *child = allocate_child();
	struct reaper *reaper = NULL;
	ssize_t length = -1;

	if (!child)
		return fail(failure, STEP_prepare, errno);
	child->death.signal = SIGKILL;
	child->death.parent_pidfd = borrow_self(&child->self, failure);
	if (child->death.parent_pidfd >= 0)
		reaper = start_reaper(patience, failure);
	if (reaper) {
		child->death.parent = reaper->own_pid;
		length = read_maps_by(child, reaper, userns, buffer, size, patience, failure);
		end_reaper(reaper);
	}
	close_if_open(child->proc);
	give_back(child->self);
	free_child(child);
	return length;
}

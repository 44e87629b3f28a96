/* The parent's side of the socket to a launcher. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clone.h"
#include "spawn.h"

/* A message of the launcher, and the descriptor that came with it, or -1. Returns the
 * length: 0 at the end, -1 when there is none yet. */
static ssize_t receive(int socket, struct report *report, int *pidfd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = {report, sizeof(*report)};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t length;

	*pidfd = -1;
	do
		length = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (length < 0 && errno == EINTR);
	if (length > 0 && message.msg_controllen >= CMSG_LEN(sizeof(int)) &&
	    control.header.cmsg_level == SOL_SOCKET && control.header.cmsg_type == SCM_RIGHTS)
		memcpy(pidfd, CMSG_DATA(&control.header), sizeof(int));
	return length;
}

/* Whether it is a message that says what failed, or no message at all: the launcher may be watched by a root that is not
 * to be trusted. A step that does not exist is found by spawn(). */
static int has_failed(ssize_t length, const struct report *report, struct failure *failure)
{
	if (length != (ssize_t)sizeof(*report) || report->step < 0)
		return fail(failure, STEP_on_created, ESRCH) < 0;
	return report->step != STEP_none && fail(failure, (enum step)report->step, report->error) < 0;
}

/* ---- what it is sent ---- */

struct sending {
	int socket;
	const char *next;
	size_t left;
	int is_first;
	int error;
};

static int is_sent(void *context)
{
	struct sending *sending = context;

	while (sending->left) {
		size_t most = sending->is_first ? LAUNCHER_FIRST_CHUNK : LAUNCHER_CHUNK;
		size_t size = sending->left < most ? sending->left : most;

		if (send(sending->socket, sending->next, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
			sending->error = errno;
			return errno != EAGAIN && errno != EINTR;
		}
		sending->is_first = 0;
		sending->next += size;
		sending->left -= size;
	}
	return 1;
}

int send_parameters(int socket, const struct launcher_parameters *block, const struct spawned *spawned,
		    const struct patience *patience, struct failure *failure)
{
	struct sending sending = {.socket = socket, .next = (const char *)block, .left = block->size, .is_first = 1};
	struct event event = {.has_happened = is_sent, .context = &sending, .socket = socket, .wakes = POLLOUT,
			      .pidfd = spawned->pidfd, .step = STEP_execveat};

	if (wait_for(&event, patience, failure) == WAIT_GAVE_UP)
		return -1;
	/* If it has ended, the next wait finds out why. */
	return sending.left && sending.error != EPIPE && sending.error != EAGAIN
		       ? fail(failure, STEP_prepare, sending.error)
		       : 0;
}

int release_launcher(int socket, struct failure *failure)
{
	const char go = 1;

	if (send(socket, &go, 1, MSG_NOSIGNAL) == 1 || errno == EPIPE || errno == ECONNRESET)
		return 0; /* if it has ended, its report says why */
	return fail(failure, STEP_prepare, errno);
}

/* ---- what it reports ---- */

struct receiving {
	int socket;
	struct report report;
	int pidfd;
	ssize_t length;
};

static int is_received(void *context)
{
	struct receiving *receiving = context;

	receiving->length = receive(receiving->socket, &receiving->report, &receiving->pidfd);
	return receiving->length >= 0;
}

/* The next message. */
static int wait_for_message(struct receiving *receiving, const struct spawned *spawned, enum step step,
		const struct patience *patience, struct failure *failure)
{
	struct event event = {.has_happened = is_received, .context = receiving, .socket = receiving->socket,
			      .wakes = POLLIN, .pidfd = spawned->pidfd, .spins = SPINS, .step = step};

	receiving->pidfd = -1;
	switch (wait_for(&event, patience, failure)) {
	case WAIT_GAVE_UP:
		return -1;
	case WAIT_ENDED:
		return fail(failure, STEP_on_created, ESRCH);
	case WAIT_HAPPENED:
		break;
	}
	if (!has_failed(receiving->length, &receiving->report, failure))
		return 0;
	close_if_open(receiving->pidfd);
	return -1;
}

/* Another child continues, which becomes part of the caller's process group. The first would end by itself,
 * but may have been stopped. */
static int take_over(struct spawned *spawned, pid_t report, int pidfd, struct failure *failure)
{
	pid_t group = getpgrp();

	end_child(spawned->pid, spawned->pidfd, NULL);
	spawned->pid = pid_of(pidfd, report);
	spawned->pidfd = pidfd;
	if (!group || setpgid(spawned->pid, group) == 0)
		return 0;
	fail(failure, STEP_setpgid, errno);
	failure_of_end(pidfd, failure);
	return -1;
}

/* What a wait for this may be for. */
static enum step step_of(const struct plan *plan)
{
	if (plan->cgroup >= 0)
		return STEP_cgroup;
	return plan->namespaces.join_count ? STEP_setns : STEP_execveat;
}

/* The first child entered the cgroup, or asks to be moved there. */
static int enter_cgroup(int socket, const struct receiving *receiving, const struct plan *plan, struct spawned *spawned,
			struct failure *failure)
{
	int result = receiving->pidfd >= 0 ? take_over(spawned, receiving->report.pid, receiving->pidfd, failure)
					 : move_to_cgroup(plan->cgroup, spawned->pid, failure);

	return result < 0 ? -1 : release_launcher(socket, failure);
}

int wait_for_namespaces(int socket, const struct plan *plan, struct spawned *spawned, struct failure *failure)
{
	struct receiving receiving = {.socket = socket};

	if (plan->cgroup >= 0 && (wait_for_message(&receiving, spawned, step_of(plan), &plan->patience, failure) < 0 ||
				  enter_cgroup(socket, &receiving, plan, spawned, failure) < 0))
		return -1;
	if (wait_for_message(&receiving, spawned, step_of(plan), &plan->patience, failure) < 0)
		return -1;
	return receiving.pidfd < 0 ? 0 : take_over(spawned, receiving.report.pid, receiving.pidfd, failure);
}

struct listening {
	int socket;
	const struct spawned *spawned;
	int looks;
};

static int has_reported(int socket)
{
	char byte;

	return recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

/* The launcher reports that it executes the command, and then closes the socket by exec, or reports what failed.
 * Only the end wakes the parent: the first message needs no answer. Should a fork in another thread have copied the
 * other end, so that it stays open, the name of the process shows it. */
static int is_over(void *context)
{
	struct listening *listening = context;
	struct pollfd end = {.fd = listening->socket};

	if (poll(&end, 1, 0) > 0)
		return 1;
	return ++listening->looks > SPINS && has_reported(listening->socket) &&
	       is_named(listening->spawned, NAME_BEFORE_EXEC) == 0;
}

int read_report(int socket, const struct spawned *spawned, const struct patience *patience, struct failure *failure)
{
	struct listening listening = {.socket = socket, .spawned = spawned};
	struct event event = {.has_happened = is_over, .context = &listening, .socket = socket,
			      .pidfd = spawned->pidfd, .spins = SPINS, .step = STEP_exec};
	struct report report;
	int executing = 0, pidfd;
	ssize_t length;

	if (wait_for(&event, patience, failure) == WAIT_GAVE_UP)
		return -1;
	while ((length = receive(socket, &report, &pidfd)) > 0) {
		close_if_open(pidfd);
		if (has_failed(length, &report, failure))
			return -1;
		executing = 1;
	}
	return executing ? 0 : fail(failure, STEP_on_created, ESRCH);
}

int failure_of_launcher(int socket, struct failure *failure)
{
	struct report report;
	int pidfd = -1;
	ssize_t length = failure->gave_up ? 0 : receive(socket, &report, &pidfd);

	if (length > 0)
		has_failed(length, &report, failure);
	close_if_open(pidfd);
	return -1;
}

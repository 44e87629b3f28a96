/* What a launcher tells its parent, by a socket. See report.h. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "birth.h"
#include "report.h"

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

static int has_told(int socket)
{
	char byte;

	return recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

/* Who tells may be watched by a root that is not to be trusted. */
static int is_step(int32_t step)
{
	return step >= 0 && step < STEP_COUNT;
}

static int has_failed(const struct report *told, struct failure *failure)
{
	if (told->failure.step == STEP_none)
		return 0;
	*failure = told->failure;
	return 1;
}

static int looked_in_time(struct pollfd ends[2])
{
	for (int look = 0; look < LOOKS_WITHOUT_SLEEP; look++) {
		if (poll(ends, 2, 0) > 0)
			return 1;
		sched_yield();
	}
	return 0;
}

/* Until there is something to hear. */
static int listen_to(struct pollfd ends[2], int *stops, struct failure *failure)
{
	ends[0].revents = ends[1].revents = 0;
	if (looked_in_time(ends))
		return 0;
	if (poll(ends, 2, LOOK_MILLISECONDS) == 0 && continue_if_stopped(ends[1].fd) && ++*stops > MOST_STOPS)
		return fail(failure, STEP_on_created, ESRCH);
	return 0;
}

/* The launcher tells that it executes the command, and then closes the socket by
 * exec, or tells what failed. Only the end wakes us: its first message needs no answer.
 * Should a fork in another thread have copied the other end, so that it stays open, the
 * name tells. */
int read_report(int socket, const struct spawned *spawned, struct failure *failure)
{
	struct pollfd ends[2] = {{.fd = socket}, {.fd = spawned->pidfd, .events = POLLIN}};
	struct report told;
	int executing = 0, stops = 0, pidfd;

	do
		if (listen_to(ends, &stops, failure) < 0)
			return -1;
	while (!ends[0].revents && !ends[1].revents &&
	       !(has_told(socket) && is_named(spawned, NAME_BEFORE_EXEC) == 0));
	while (receive(socket, &told, &pidfd) == (ssize_t)sizeof(told) && is_step(told.failure.step)) {
		close_if_open(pidfd);
		if (has_failed(&told, failure))
			return -1;
		executing = 1;
	}
	return executing ? 0 : fail(failure, STEP_on_created, ESRCH);
}

/* Another child goes on, as part of our process group. The first would end by itself,
 * but may have been stopped. */
static int succeed(struct spawned *spawned, pid_t told, int pidfd, struct failure *failure)
{
	pid_t group = getpgrp();

	kill_and_reap(spawned->pid, spawned->pidfd);
	close(spawned->pidfd);
	spawned->pid = pid_of(pidfd, told);
	spawned->pidfd = pidfd;
	if (!group || setpgid(spawned->pid, group) == 0)
		return 0;
	fail(failure, STEP_setpgid, errno);
	blame_its_end(pidfd, failure);
	return -1;
}

/* Until the launcher is where the command is to run, and its namespaces are there. */
int wait_until_founded(int socket, struct spawned *spawned, struct failure *failure)
{
	struct pollfd ends[2] = {{.fd = socket, .events = POLLIN}, {.fd = spawned->pidfd, .events = POLLIN}};
	struct report told;
	ssize_t length;
	int pidfd, stops = 0;

	do
		if (listen_to(ends, &stops, failure) < 0)
			return -1;
	while ((length = receive(socket, &told, &pidfd)) < 0 && !has_ended(spawned->pidfd));
	if (length < 0) /* it may have told in between */
		length = receive(socket, &told, &pidfd);
	if (length != (ssize_t)sizeof(told) || !is_step(told.failure.step)) {
		close_if_open(pidfd);
		return fail(failure, STEP_on_created, ESRCH);
	}
	if (has_failed(&told, failure)) {
		close_if_open(pidfd);
		return -1;
	}
	return pidfd < 0 ? 0 : succeed(spawned, told.pid, pidfd, failure);
}

/* What else it has told before it ended. */
int blame_launcher(int socket, struct failure *failure)
{
	struct report told;
	int pidfd = -1;

	if (receive(socket, &told, &pidfd) == (ssize_t)sizeof(told) && is_step(told.failure.step))
		has_failed(&told, failure);
	close_if_open(pidfd);
	return -1;
}

void let_go_on(int socket)
{
	const char go = 1;

	send(socket, &go, 1, MSG_NOSIGNAL); /* if it has ended, its report says why */
}

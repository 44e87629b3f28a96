/* Descriptors for children, none of them 0, 1 or 2. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core.h"

void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

void close_keeping_errno(int fd)
{
	int error = errno;

	close(fd);
	errno = error;
}

int not_below(int fd, int least)
{
	int above;

	if (fd < 0 || fd >= least)
		return fd;
	above = fcntl(fd, F_DUPFD_CLOEXEC, least);
	close_keeping_errno(fd);
	return above;
}

int above_stdio(int fd)
{
	return not_below(fd, 3);
}

static int move_above_stdio(int ends[2], struct failure *failure)
{
	for (int i = 0; i < 2; i++) {
		ends[i] = above_stdio(ends[i]);
		if (ends[i] < 0) {
			fail(failure, STEP_prepare, errno);
			close_if_open(ends[1 - i]);
			ends[0] = ends[1] = -1;
			return -1;
		}
	}
	return 0;
}

int open_pipe(int ends[2], struct failure *failure)
{
	return pipe2(ends, O_CLOEXEC) < 0 ? fail(failure, STEP_prepare, errno) : move_above_stdio(ends, failure);
}

int open_sockets(int sockets[2], struct failure *failure)
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets) < 0)
		return fail(failure, STEP_prepare, errno);
	return move_above_stdio(sockets, failure);
}

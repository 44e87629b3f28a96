/* Placing a child in a cgroup of version 2 where clone3(2) cannot.
 *
 * The kernel applies pids.max when a process is created, never when one is moved. So here it is
 * looked at afterwards, in the cgroup and all above it; what would be too many is refused as it is
 * by clone3(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "spawn.h"
#include "proven_proc.h"

static int write_pid(int cgroup, pid_t pid)
{
	char text[16];
	ssize_t written;
	int fd = open_in(cgroup, "cgroup.procs", O_WRONLY), error = 0;

	if (fd < 0)
		return -fd;
	snprintf(text, sizeof(text), "%d", (int)pid);
	written = write(fd, text, strlen(text));
	if (written != (ssize_t)strlen(text))
		error = written < 0 ? errno : EIO; /* the kernel takes all or nothing */
	close(fd);
	return error;
}

/* -1: no such file, or "max" */
static long number_in(int cgroup, const char *name)
{
	char text[32];
	ssize_t length;
	int fd = open_in(cgroup, name, O_RDONLY);

	if (fd < 0)
		return -1;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (length <= 0 || text[0] == 'm')
		return -1;
	text[length] = 0;
	return strtol(text, NULL, 10);
}

/* The files of a cgroup's parent are those of "..", up to the root of the hierarchy, which has no limit. */
static int has_too_many(int cgroup)
{
	int directory = fcntl(cgroup, F_DUPFD_CLOEXEC, 0), too_many = 0;

	while (directory >= 0 && !too_many && faccessat(directory, "cgroup.type", F_OK, 0) == 0) {
		long limit = number_in(directory, "pids.max");
		int parent = openat(directory, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);

		too_many = limit >= 0 && number_in(directory, "pids.current") > limit;
		close(directory);
		directory = parent;
	}
	if (directory >= 0)
		close(directory);
	return too_many;
}

int move_to_cgroup(int cgroup, pid_t pid, struct failure *failure)
{
	int error = write_pid(cgroup, pid);

	if (error)
		return fail(failure, STEP_cgroup, error);
	return has_too_many(cgroup) ? fail(failure, STEP_clone, EAGAIN) : 0;
}

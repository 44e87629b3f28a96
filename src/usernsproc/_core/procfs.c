/* A process seen through its pidfd and its directory in /proc. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "descriptors.h"
#include "rawsys.h"
#include "wait.h"

int fail(struct failure *failure, enum step step, int error)
{
	*failure = (struct failure){.step = (int32_t)step, .error = error};
	return -1;
}

/* A child that was killed may take a moment to end, in which its files in /proc
 * are root's, or gone. What the kernel refuses to a living one it refuses with
 * other errors. */
void blame_its_end(int pidfd, struct failure *failure)
{
	int may_be_that = !failure->gave_up && (failure->error == EACCES || failure->error == ENOENT || failure->error == ESRCH);

	if (may_be_that && has_ended_within(pidfd, 20))
		failure->error = ESRCH;
}

/* Whether /proc was mounted for the caller's pid namespace; -1: there is none. */
static int proc_is_own(void)
{
	char text[32];
	ssize_t length = readlink("/proc/self", text, sizeof(text) - 1);

	if (length <= 0)
		return -1;
	text[length] = 0;
	return atoi(text) == getpid();
}

/* In the pid namespace that /proc was mounted for. -1: it is not to be seen there. */
static pid_t pid_in_fdinfo(int pidfd)
{
	char path[48], text[512], *line;
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[length > 0 ? length : 0] = 0;
	line = strstr(text, "\nPid:");
	return line ? (pid_t)atoi(line + 5) : -1;
}

/* What /proc calls the process: its pid, unless /proc was mounted for another pid
 * namespace than the caller's, where that number is a stranger's. There the pidfd's
 * own file tells. */
pid_t pid_in_proc(pid_t pid, int pidfd)
{
	return proc_is_own() ? pid : pid_in_fdinfo(pidfd); /* without /proc the next step says so */
}

/* The pid of who is known by a pidfd, and by the pid that somebody else has for it: in
 * a pid namespace of which the caller is no part, but its next children are. */
pid_t pid_of(int pidfd, pid_t otherwise)
{
	pid_t pid = proc_is_own() == 1 ? pid_in_fdinfo(pidfd) : otherwise;

	return pid > 0 ? pid : otherwise;
}

/* Only valid while the caller alone can reap the child, or with the check that
 * it has not ended: what has not ended has not lost its pid. */
int open_proc_dir(pid_t pid, int pidfd, struct failure *failure)
{
	char path[32];
	int directory;

	snprintf(path, sizeof(path), "/proc/%d", (int)pid_in_proc(pid, pidfd));
	directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0)
		return fail(failure, STEP_open_proc, errno);
	if (has_ended(pidfd)) {
		close(directory);
		return fail(failure, STEP_open_proc, ESRCH);
	}
	return directory;
}

static int write_once(int proc_dir, const char *name, const char *text, enum step step,
		      struct failure *failure)
{
	size_t length;
	ssize_t written;
	int fd, error;

	if (!text)
		return 0;
	fd = openat(proc_dir, name, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return fail(failure, step, errno);
	length = strlen(text);
	written = write(fd, text, length);
	error = written < 0 ? errno : EIO; /* the kernel takes all or nothing */
	close(fd);
	return written == (ssize_t)length ? 0 : fail(failure, step, error);
}

int write_maps(int proc_dir, const struct maps *maps, struct failure *failure)
{
	/* setgroups first: it can no longer be changed once gid_map is written. */
	if (write_once(proc_dir, "setgroups", maps->setgroups, STEP_setgroups, failure) < 0 ||
	    write_once(proc_dir, "uid_map", maps->uid_map, STEP_uid_map, failure) < 0)
		return -1;
	return write_once(proc_dir, "gid_map", maps->gid_map, STEP_gid_map, failure);
}

/* The root of a procfs, by which a child can list its descriptors where close_range(2) is missing; -1: it is not
 * needed; -2: there is none. */
int proc_to_close_by(struct failure *failure)
{
	struct statfs file_system;
	int proc;

	if (RAW3(close_range, ~0u, ~0u, 0) == 0) /* closes nothing: there is no such descriptor */
		return -1;
	proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (proc >= 0 && fstatfs(proc, &file_system) == 0 && file_system.f_type == PROC_SUPER_MAGIC)
		return above_stdio(proc);
	close_if_open(proc);
	fail(failure, STEP_open_proc, ENOENT);
	return -2;
}

/* A process seen through its pidfd and its directory in /proc. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proven_proc.h"
#include "rawsys.h"
#include "wait.h"

int fail(struct failure *failure, enum step step, int error)
{
	*failure = (struct failure){.step = (int32_t)step, .error = error};
	return -1;
}

/* A child that was killed may take a moment to end, in which its files in /proc
 * are root's, or gone. What the kernel refuses to a living one it refuses with
 * other errors; of one that has been reaped a map cannot be opened (EINVAL). */
void failure_of_end(int pidfd, struct failure *failure)
{
	int error = failure->gave_up ? 0 : failure->error;
	int may_be_that = error == EACCES || error == ENOENT || error == ESRCH;

	if ((may_be_that && has_ended_within(pidfd, 20)) || (error == EINVAL && has_ended(pidfd)))
		failure->error = ESRCH;
}

/* The pid of a process that is known by a pidfd, and by the pid that another process has
 * for it: in a pid namespace that the caller's next children are in, but not the caller. */
pid_t pid_of(int pidfd, pid_t otherwise)
{
	struct borrowed root = borrow_proc_root();
	pid_t pid = -1;

	if (root.fd < 0)
		return otherwise;
	if (has_pids_of_caller(root) && find_pid_in_proc(root.fd, pidfd, &pid) < 0)
		pid = -1;
	give_back(root);
	return pid > 0 ? pid : otherwise;
}

static int open_dir_in(int root, pid_t pid)
{
	char name[16];

	if (pid <= 0)
		return -ESRCH;
	snprintf(name, sizeof(name), "%d", (int)pid);
	return open_in(root, name, O_PATH | O_DIRECTORY);
}

static int find_and_open_dir(int root, int pidfd)
{
	pid_t pid;
	int error = find_pid_in_proc(root, pidfd, &pid);

	return error < 0 ? error : open_dir_in(root, pid);
}

/* The number and the directory are of the same procfs: another could be mounted meanwhile. */
int open_proc_dir_of(int pidfd)
{
	struct borrowed root = borrow_proc_root();
	int directory;

	if (root.fd < 0)
		return root.fd;
	directory = find_and_open_dir(root.fd, pidfd);
	give_back(root);
	return directory;
}

/* Only valid while the caller alone can reap the child, or with the check that
 * it has not ended: what has not ended has not lost its pid. */
int open_proc_dir(pid_t pid, int pidfd, struct failure *failure)
{
	struct borrowed root = borrow_proc_root();
	int directory;

	if (root.fd < 0)
		return fail(failure, STEP_open_proc, -root.fd);
	directory = has_pids_of_caller(root) ? open_dir_in(root.fd, pid) : find_and_open_dir(root.fd, pidfd);
	give_back(root);
	if (directory < 0)
		return fail(failure, STEP_open_proc, -directory);
	if (has_ended(pidfd)) {
		close(directory);
		return fail(failure, STEP_open_proc, ESRCH);
	}
	return directory;
}

/* A file that something is mounted over is the fault of /proc, not of the step. */
int fail_in_proc(struct failure *failure, enum step step, int error)
{
	return fail(failure, error == EXDEV ? STEP_open_proc : step, error);
}

int open_ns(int pidfd, int proc_dir, struct failure *failure)
{
	int userns = open_namespace(pidfd, proc_dir, "user");

	return userns < 0 ? fail_in_proc(failure, STEP_open_ns, -userns) : userns;
}

static int write_once(int proc_dir, const char *name, const char *text, enum step step,
		      struct failure *failure)
{
	size_t length;
	ssize_t written;
	int fd, error;

	if (!text)
		return 0;
	fd = open_in(proc_dir, name, O_WRONLY);
	if (fd < 0)
		return fail_in_proc(failure, step, -fd);
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
	int proc;

	if (RAW3(close_range, ~0u, ~0u, 0) == 0) /* closes nothing: there is no such descriptor */
		return -1;
	proc = open_proc_root();
	if (proc >= 0)
		return above_stdio(proc);
	fail(failure, STEP_open_proc, -proc);
	return -2;
}

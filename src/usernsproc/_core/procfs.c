/* A process seen through its pidfd and its directory in /proc. */
#include <errno.h>
#include <fcntl.h>
#include <linux/ioctl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core.h"
#include "proven_proc.h"
#include "rawsys.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef PIDFD_SIGNAL_PROCESS_GROUP
#define PIDFD_SIGNAL_PROCESS_GROUP (1 << 2)
#endif
#ifndef __WALL
#define __WALL 0x40000000
#endif

int fail(struct failure *failure, enum step step, int error)
{
	failure->step = step;
	failure->error = error;
	return -1;
}

int has_ended_within(int pidfd, int milliseconds)
{
	struct pollfd process = {.fd = pidfd, .events = POLLIN};
	int result;

	do /* a signal interrupts even a look that does not wait */
		result = poll(&process, 1, milliseconds);
	while (result < 0 && errno == EINTR);
	return result > 0;
}

/* A zombie answers signal 0, so only poll(2) tells whether it still runs. */
int has_ended(int pidfd)
{
	return has_ended_within(pidfd, 0);
}

/* A child that was killed may take a moment to end, in which its files in /proc
 * are root's, or gone. What the kernel refuses to a living one it refuses with
 * other errors. */
void blame_its_end(int pidfd, struct failure *failure)
{
	int may_be_that = failure->error == EACCES || failure->error == ENOENT || failure->error == ESRCH;

	if (may_be_that && has_ended_within(pidfd, 20))
		failure->error = ESRCH;
}

/* What /proc calls the process. Negative: it is not to be seen there, or that /proc is
 * forged. */
pid_t pid_in_proc(pid_t pid, int pidfd)
{
	int root = open_proc_root();
	pid_t found = -1;

	(void)pid; /* as the caller knows it: /proc may be that of another pid namespace */
	if (root < 0)
		return -1;
	if (find_pid_in_proc(root, pidfd, &found) < 0)
		found = -1;
	close(root);
	return found;
}

/* Whether /proc was mounted for the caller's pid namespace. */
static int proc_is_own(void)
{
	char text[32];

	return read_link_in(-1, "self", text, sizeof(text)) > 0 && atoi(text) == getpid();
}

/* The pid of a process that is known by a pidfd, and by the pid that another process has
 * for it: in a pid namespace that the caller's next children are in, but not the caller. */
pid_t pid_of(int pidfd, pid_t otherwise)
{
	pid_t pid = proc_is_own() ? pid_in_proc(otherwise, pidfd) : otherwise;

	return pid > 0 ? pid : otherwise;
}

static int open_dir_in(int root, int pidfd)
{
	char name[16];
	pid_t pid;
	int error = find_pid_in_proc(root, pidfd, &pid);

	if (error < 0)
		return error;
	if (pid <= 0)
		return -ESRCH;
	snprintf(name, sizeof(name), "%d", (int)pid);
	return open_in(root, name, O_PATH | O_DIRECTORY);
}

/* The number and the directory are of the same procfs: another could be mounted meanwhile. */
int open_proc_dir_of(int pidfd)
{
	int root = open_proc_root(), directory;

	if (root < 0)
		return root;
	directory = open_dir_in(root, pidfd);
	close(root);
	return directory;
}

/* Only valid while the caller alone can reap the child, or with the check that
 * it has not ended: what has not ended has not lost its pid. */
int open_proc_dir(pid_t pid, int pidfd, struct failure *failure)
{
	int directory = open_proc_dir_of(pidfd);

	(void)pid; /* as above */
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

/* __WALL: a child with exit signal 0 is a "clone child", invisible without it. */
void kill_and_reap(pid_t pid, int pidfd)
{
	siginfo_t info;
	long result = RAW4(pidfd_send_signal, pidfd, SIGKILL, 0, 0);

	/* Refused by a filter? What has not ended still has its pid. */
	if (result < 0 && result != -ESRCH && !has_ended(pidfd))
		kill(pid, SIGKILL);
	do
		result = waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | __WALL);
	while (result < 0 && errno == EINTR);
	if (result < 0) /* not ours to reap; but it must not run on when its stack is used again */
		has_ended_within(pidfd, -1);
}

/* It, and children of ours that are in its process group. Before Linux 6.9 these have
 * to end by themselves. */
void kill_and_reap_group(pid_t leader, int pidfd)
{
	siginfo_t info;
	int result;

	RAW4(pidfd_send_signal, pidfd, SIGKILL, 0, PIDFD_SIGNAL_PROCESS_GROUP);
	kill_and_reap(leader, pidfd);
	do
		result = waitid(P_PGID, (id_t)leader, &info, WEXITED | __WALL);
	while (result == 0 || errno == EINTR);
}

/* A child that waits for nothing but us. Whether it was stopped. */
int continue_if_stopped(int pidfd)
{
	siginfo_t info;

	info.si_pid = 0;
	if (waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WSTOPPED | WNOHANG | WNOWAIT | __WALL) < 0 ||
	    !info.si_pid)
		return 0;
	RAW4(pidfd_send_signal, pidfd, SIGCONT, 0, 0);
	return 1;
}

/* struct pidfd_info of Linux 6.13, in its first size. */
struct pidfd_info_v0 {
	uint64_t mask, cgroup;
	uint32_t ids[11];
	int32_t exit_code;
};

#define PIDFD_GET_INFO_V0 _IOWR(0xff, 11, struct pidfd_info_v0)
#define PIDFD_INFO_EXIT_BIT (1u << 3)

/* The wait status of a process that somebody else has reaped, -1 where the
 * kernel does not keep it (Linux < 6.15), -2 where nobody has reaped it. It is
 * there once POLLHUP is; the reaper may still be on its way: give it a moment. */
long pidfd_exit_status(int pidfd)
{
	struct pollfd reaped = {.fd = pidfd, .events = 0};
	struct pidfd_info_v0 info;

	memset(&info, 0, sizeof(info));
	info.mask = PIDFD_INFO_EXIT_BIT;
	if (ioctl(pidfd, PIDFD_GET_INFO_V0, &info) < 0 && errno != ESRCH)
		return -1;
	for (int attempt = 0; attempt < 5; attempt++) {
		int known;

		poll(&reaped, 1, 10);
		memset(&info, 0, sizeof(info));
		info.mask = PIDFD_INFO_EXIT_BIT;
		known = ioctl(pidfd, PIDFD_GET_INFO_V0, &info) == 0;
		if (known && info.mask & PIDFD_INFO_EXIT_BIT)
			return info.exit_code;
		if (reaped.revents & POLLHUP)
			return -1;
		if (known && attempt == 4)
			return -2;
	}
	return -1;
}

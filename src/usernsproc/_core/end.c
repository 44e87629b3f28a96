/* The end of a child: SIGKILL, and what is left of it. */
#include <errno.h>
#include <linux/ioctl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rawsys.h"
#include "wait.h"

/* A child that was killed ends at once, unless it is in an uninterruptible system call (a file system
 * whose server does not answer), frozen by a cgroup of version 1, or held by a tracer. The caller does not wait for
 * that longer than this. */
#define END_MILLISECONDS 1000
#define EXPECTED_MILLISECONDS 200

/* 1: reaped; 0: it still runs, or is not yet to be reaped; -1: not a child of this process, or reaped by others.
 * __WALL: a child with exit signal 0 is a "clone child", which is invisible without it. */
static int reap(int pidfd, siginfo_t *info)
{
	int result;

	info->si_pid = 0;
	do
		result = waitid((idtype_t)P_PIDFD, (id_t)pidfd, info, WEXITED | WNOHANG | __WALL);
	while (result < 0 && errno == EINTR);
	return result < 0 ? -1 : info->si_pid != 0;
}

static void *reap_late(void *argument)
{
	int pidfd = (int)(intptr_t)argument;
	siginfo_t info;

	while (waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | __WALL) < 0 && errno == EINTR)
		;
	close(pidfd);
	return NULL;
}

/* By a thread that ends with the child: an unreaped one keeps its pid namespace from ending. */
static void reap_when_ended(int pidfd)
{
	sigset_t all, before;
	pthread_t thread;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&thread, NULL, reap_late, (void *)(intptr_t)pidfd) == 0)
		pthread_detach(thread);
	else
		close(pidfd); /* it stays a zombie until this process ends */
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void send_kill(pid_t pid, int pidfd)
{
	long result = RAW4(pidfd_send_signal, pidfd, SIGKILL, 0, 0);

	/* Refused by a filter? What has not ended still has its pid. */
	if (result < 0 && result != -ESRCH && pid > 0 && !has_ended(pidfd))
		kill(pid, SIGKILL);
}

static int returncode_of(const siginfo_t *info)
{
	return info->si_code == CLD_EXITED ? info->si_status : -info->si_status;
}

static int lost_returncode(int pidfd, int *returncode)
{
	long status = pidfd_exit_status(pidfd);

	for (int attempt = 0; status == -2 && attempt < 10; attempt++) /* the process that reaps it may not get a processor */
		status = pidfd_exit_status(pidfd);
	if (status < 0)
		return 0;
	*returncode = WIFSIGNALED((int)status) ? -WTERMSIG((int)status) : WEXITSTATUS((int)status);
	return 1;
}

/* ESRCH: nothing was reported, so its end is all that is known. That comes a moment after the end of its descriptors,
 * and after the end of the command that it is the init of. */
static int has_ended_alone(int pidfd, const struct failure *failure)
{
	int is_expected = failure && !failure->gave_up && failure->error == ESRCH;

	return is_expected ? has_ended_within(pidfd, EXPECTED_MILLISECONDS) : has_ended(pidfd);
}

int end_child(pid_t pid, int pidfd, struct failure *failure)
{
	int ended = has_ended_alone(pidfd, failure), reaped = 0;
	siginfo_t info;

	if (!ended)
		send_kill(pid, pidfd);
	if (has_ended_within(pidfd, END_MILLISECONDS))
		reaped = reap(pidfd, &info);
	if (failure && ended && reaped > 0) {
		failure->has_ended = 1;
		failure->returncode = returncode_of(&info);
	} else if (failure && ended && reaped < 0) {
		failure->has_ended = lost_returncode(pidfd, &failure->returncode);
	}
	if (reaped)
		close(pidfd);
	else
		reap_when_ended(pidfd);
	return reaped != 0;
}

/* The number, in the caller's pid namespace, of a child that has ended and is not reaped; else 0. */
static pid_t number_of_zombie(int pidfd)
{
	siginfo_t info;

	info.si_pid = 0;
	waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT | __WALL);
	return info.si_pid;
}

/* Its members are known by its number alone, which is that of no other group as long as the leader is
 * not reaped, or another member is. */
static void reap_members(pid_t leader)
{
	int64_t deadline = now() + (int64_t)END_MILLISECONDS * 1000000;
	siginfo_t info;

	while ((kill(-leader, 0) == 0 || errno == EPERM) && now() < deadline) {
		info.si_pid = 0;
		waitid(P_PGID, (id_t)leader, &info, WEXITED | WNOHANG | __WALL);
		if (!info.si_pid)
			poll(NULL, 0, 1);
	}
}

int end_group(pid_t pid, int pidfd, struct failure *failure)
{
	pid_t leader;
	int is_over;

	if (!has_ended_alone(pidfd, failure))
		failure = NULL; /* its end says nothing */
	send_kill(pid, pidfd);
	has_ended_within(pidfd, END_MILLISECONDS);
	leader = number_of_zombie(pidfd); /* not what another process says: that may be of its pid namespace */
	if (leader > 1)
		kill(-leader, SIGKILL);
	else /* another part of the program reaps what it finds; Linux 6.9 */
		RAW4(pidfd_send_signal, pidfd, SIGKILL, 0, PIDFD_SIGNAL_PROCESS_GROUP);
	is_over = end_child(pid, pidfd, failure);
	if (leader > 1)
		reap_members(leader);
	return is_over;
}

/* struct pidfd_info of Linux 6.13, in its first size. */
struct pidfd_info_v0 {
	uint64_t mask, cgroup;
	uint32_t ids[11];
	int32_t exit_code;
};

#define PIDFD_GET_INFO_V0 _IOWR(0xff, 11, struct pidfd_info_v0)
#define PIDFD_INFO_EXIT_BIT (1u << 3)

/* The wait status of a process that another part of the program has reaped, -1 where the
 * kernel does not keep it (Linux < 6.15), -2 where it is not reaped. It is
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

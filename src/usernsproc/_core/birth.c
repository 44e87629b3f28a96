/* See birth.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "birth.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef __WALL
#define __WALL 0x40000000
#endif
#ifndef __WNOTHREAD
#define __WNOTHREAD 0x20000000
#endif

#define LIVENESS_CHECK_NANOSECONDS 200000000

#define CLONE_FLAGS (CLONE_VM | CLONE_PIDFD | CLONE_CHILD_CLEARTID)

/* Only clone3(2) can place a child in a cgroup, and make a time namespace, whose
 * flag is part of the exit signal in clone(2). */
static long clone_by_clone3(struct birth *birth)
{
	struct raw_clone_args arguments = {
		.flags = CLONE_FLAGS | birth->namespaces,
		.pidfd = (uintptr_t)&birth->pidfd,
		.child_tid = (uintptr_t)&birth->child->tid,
	};

	if (birth->cgroup >= 0) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = (uint64_t)birth->cgroup;
	}
	return raw_clone3(&arguments, stack_bottom_of(birth->child), stack_of(birth->child), spawned_child,
			  birth->child);
}

static long clone_by_clone(struct birth *birth)
{
	return raw_clone(birth->namespaces | CLONE_FLAGS, stack_of(birth->child), &birth->pidfd,
			 &birth->child->tid, spawned_child, birth->child);
}

/* clone(2) is preferred: seccomp profiles refuse clone3(2), whose flags they
 * cannot see. Whatever the reason was, where clone(2) will do it says more. */
void clone_child(struct birth *birth)
{
	if (birth->cgroup >= 0 || birth->namespaces & CLONE_NEWTIME) {
		birth->pid = clone_by_clone3(birth);
		if (birth->pid >= 0)
			birth->in_cgroup = birth->cgroup >= 0;
		if (birth->pid >= 0 || birth->namespaces & CLONE_NEWTIME)
			return;
	}
	birth->pid = clone_by_clone(birth);
}

/* The kernel sends PR_SET_PDEATHSIG when the creating *thread* ends. So a child
 * that is to live as long as the process is made by a thread that lives as long
 * as the child. It is made by the calling thread and so has its affinity,
 * namespaces, seccomp filter and credentials; it sleeps until its only child
 * can be reaped, and leaves the reaping to others.
 *
 * A pthread and no bare clone: libc's setuid() has to find it.
 */
static void *keep(void *argument)
{
	struct birth *birth = argument;
	sigset_t all;
	siginfo_t info;
	int has_successor = birth->has_successor;
	long pid;

	block_signals();
	clone_child(birth);
	pid = birth->pid;
	/* All but the signals that libc itself needs to reach every thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	sem_post(&birth->done); /* `birth` may be gone from here on */
	if (pid < 0)
		return NULL;
	if (has_successor) /* it ends when the other is there */
		while (waitid(P_PID, (id_t)pid, &info, WEXITED | __WALL | __WNOTHREAD) < 0 && errno == EINTR)
			;
	while (waitid(P_ALL, 0, &info, WEXITED | WNOWAIT | __WALL | __WNOTHREAD) < 0 && errno == EINTR)
		;
	return NULL;
}

static int start_keeper(struct birth *birth)
{
	pthread_attr_t attributes;
	int error = pthread_attr_init(&attributes);

	if (error)
		return error;
	/* Ample; where libc wants more (much static TLS), its own default. */
	pthread_attr_setstacksize(&attributes, 0x20000);
	error = pthread_create(&birth->keeper, &attributes, keep, birth);
	if (error == EINVAL)
		error = pthread_create(&birth->keeper, NULL, keep, birth);
	pthread_attr_destroy(&attributes);
	return error;
}

void clone_in_keeper(struct birth *birth)
{
	sigset_t all;
	int error;

	/* The keeper inherits this. libc's own signals come through: a setuid() in
	 * another thread holds a lock that pthread_create() takes until this thread
	 * has answered. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	sem_init(&birth->done, 0, 0);
	error = start_keeper(birth);
	if (error) {
		birth->pid = -error;
	} else {
		birth->has_keeper = 1;
		while (sem_wait(&birth->done) < 0)
			;
	}
	sem_destroy(&birth->done);
}

/* Without a child it ends at once: wait, so that a failed call leaves no
 * thread. With one it ends by itself. */
void let_go_of_keeper(struct birth *birth, int has_child)
{
	if (!birth->has_keeper)
		return;
	if (has_child)
		pthread_detach(birth->keeper);
	else
		pthread_join(birth->keeper, NULL);
}

int is_main_thread(void)
{
	return RAW0(gettid) == getpid();
}

/* The kernel clears the word and wakes us when the child leaves this memory, by
 * exec or by its end. Kernels before 5.16 do not after a core dump, hence the
 * look at the pidfd now and then. */
void wait_until_memory_is_left(struct child *child, int pidfd)
{
	struct {
		int64_t seconds, nanoseconds;
	} limit = {0, LIVENESS_CHECK_NANOSECONDS};
	int32_t tid;

	while ((tid = __atomic_load_n(&child->tid, __ATOMIC_ACQUIRE)) != 0) {
		if (RAW4(futex, &child->tid, FUTEX_WAIT, tid, &limit) == -ETIMEDOUT && has_ended(pidfd))
			return;
	}
}

/* The word is cleared, and we are woken, early in an exec: the kernel then has
 * still to give the child its own memory and to close descriptors. The name of the
 * process comes after that. No pipe that exec closes would do: a fork in another
 * thread of the program could copy its other end, and keep it open for ever. */
int is_named(const struct spawned *spawned, const char *name)
{
	char path[32], text[32];
	ssize_t length;
	int fd;

	if (spawned->proc_dir >= 0) {
		fd = openat(spawned->proc_dir, "comm", O_RDONLY | O_CLOEXEC);
	} else {
		snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid_in_proc(spawned->pid, spawned->pidfd));
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (fd < 0)
		return -errno;
	length = read(fd, text, sizeof(text) - 1);
	if (length <= 0)
		length = length < 0 ? -errno : -ESRCH;
	close(fd);
	if (length < 0)
		return (int)length;
	text[length - 1] = 0; /* a newline */
	return strcmp(text, name) == 0;
}

/* The rest of an exec takes microseconds, unless the child does not get a
 * processor. A name may also have been refused, by a seccomp filter. */
#define LOOKS 2000

int wait_while(int answer, const struct spawned *spawned, const char *name)
{
	const struct timespec shortly = {.tv_nsec = 50000};
	int now = answer;

	for (int look = 0; now == answer && look < LOOKS; look++) {
		if (look < LOOKS_WITHOUT_SLEEP) {
			sched_yield(); /* on one processor it comes to its name while we wait */
		} else {
			continue_if_stopped(spawned->pidfd);
			nanosleep(&shortly, NULL);
		}
		now = is_named(spawned, name);
		if (has_ended(spawned->pidfd))
			break;
	}
	return now;
}

/* Out of the way of the child's 0, 1 and 2. */
static int above_stdio(long fd)
{
	long above;

	if (fd < 0 || fd > 2)
		return (int)fd;
	above = RAW3(fcntl, fd, F_DUPFD_CLOEXEC, 3);
	RAW1(close, fd);
	return (int)above;
}

/* A pidfd of this process, for who has to know whether it lives. */
int open_self(struct failure *failure)
{
	int self = above_stdio(RAW2(pidfd_open, getpid(), 0));

	return self < 0 ? fail(failure, STEP_prepare, -self) : self;
}

static int move_above_stdio(int ends[2], struct failure *failure)
{
	ends[0] = above_stdio(ends[0]);
	ends[1] = above_stdio(ends[1]);
	if (ends[0] >= 0 && ends[1] >= 0)
		return 0;
	fail(failure, STEP_prepare, -(ends[0] < 0 ? ends[0] : ends[1]));
	close_if_open(ends[0]);
	close_if_open(ends[1]);
	return -1;
}

int open_pipe(int ends[2], struct failure *failure)
{
	return pipe2(ends, O_CLOEXEC) < 0 ? fail(failure, STEP_prepare, errno) : move_above_stdio(ends, failure);
}

/* A socket, and no pipe: it can carry a descriptor, and an answer. */
int open_report(int report[2], struct failure *failure)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return fail(failure, STEP_prepare, errno);
	if (move_above_stdio(ends, failure) < 0)
		return -1;
	report[0] = ends[0];
	report[1] = ends[1];
	return 0;
}

void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

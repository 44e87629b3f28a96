/* See foster.h.
 *
 * exec(2) makes SIGCHLD the exit signal of any child. So the end of a program of ours
 * would be told to the caller, in the middle of a call that has nothing to do with
 * processes, and a waitpid(-1) in another thread would find a child that it knows
 * nothing of. Here a child in our memory, which executes nothing and so has exit
 * signal 0, makes that program its own child, and reaps it.
 */
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "foster.h"
#include "inline.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#ifndef __WALL
#define __WALL 0x40000000
#endif

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define ORPHAN_LOOKS 50
#define REAPS_WITHIN_MILLISECONDS 1000

static const struct {
	int64_t seconds, nanoseconds;
} liveness_check = {0, 20000000};

static void set_word(int32_t *word, int32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	RAW3(futex, word, FUTEX_WAKE, 1);
}

/* ---- in the child; it follows the contract of child.c ---- */

static void wait_for_go(struct foster *foster)
{
	while (!__atomic_load_n(&foster->go, __ATOMIC_ACQUIRE))
		RAW4(futex, &foster->go, FUTEX_WAIT, 0, 0);
}

/* Root in a namespace that it joins may stop it, which only its parent is told. */
static void continue_or_kill(int pidfd, int *stops)
{
	RAW4(pidfd_send_signal, pidfd, ++*stops > MOST_STOPS ? SIGKILL : SIGCONT, 0, 0);
}

static void reap(int pidfd)
{
	siginfo_t info;
	int stops = 0;
	long result;

	for (;;) {
		result = RAW5(waitid, P_ALL, 0, &info, WEXITED | WSTOPPED | __WALL, 0);
		if (result == 0 && info.si_code == CLD_STOPPED)
			continue_or_kill(pidfd, &stops);
		else if (result != -EINTR)
			return;
	}
}

static void foster_child(void *argument)
{
	struct foster *foster = argument;
	int pidfd;

	die_with_parent(&foster->child->death, SIGKILL);
	set_word(&foster->own_pid, (int32_t)RAW0(getpid));
	wait_for_go(foster);
	clone_child(foster->birth);
	pidfd = foster->birth->pid < 0 ? -1 : foster->birth->pidfd;
	set_word(&foster->done, 1); /* `birth` may be gone from here on */
	if (pidfd >= 0)
		reap(pidfd);
	leave(0);
}

/* ---- in the parent ---- */

/* Until it has set the word. Somebody may have killed it before. */
static int wait_for_word(const struct foster *foster, int32_t *word)
{
	while (!__atomic_load_n(word, __ATOMIC_ACQUIRE))
		if (RAW4(futex, word, FUTEX_WAIT, 0, &liveness_check) < 0 && has_ended(foster->pidfd))
			return __atomic_load_n(word, __ATOMIC_ACQUIRE) ? 0 : -1;
	return 0;
}

static long clone_foster(struct foster *foster)
{
	unsigned long flags = CLONE_VM | CLONE_FILES | CLONE_PIDFD | flag_against_debugger();
	uint64_t mask = block_signals();
	long pid = raw_clone(flags, stack_of(foster->child), &foster->pidfd, NULL, foster_child, foster);

	restore_signals(mask);
	return pid;
}

int start_foster(struct foster *foster, struct failure *failure)
{
	int is_there;
	long pid;

	foster->own_pid = foster->go = foster->done = 0;
	foster->pidfd = -1;
	foster->child = allocate_child();
	if (!foster->child)
		return fail(failure, STEP_prepare, errno);
	foster->child->death.parent = (int32_t)getpid();
	foster->child->death.parent_pidfd = open_self(failure);
	if (foster->child->death.parent_pidfd < 0) {
		free_child(foster->child);
		return -1;
	}
	pid = clone_foster(foster);
	foster->pid = (pid_t)pid;
	is_there = pid > 0 && wait_for_word(foster, &foster->own_pid) == 0;
	close(foster->child->death.parent_pidfd);
	if (is_there)
		return 0;
	if (pid > 0)
		end_foster(foster);
	else
		free_child(foster->child);
	return fail(failure, STEP_clone, pid > 0 ? ESRCH : (int)-pid);
}

/* The foster was killed. A child that it has made ends by itself, but runs in our memory until
 * then, which the kernel tells by `tid`. If that does not happen, there is none: a pidfd that
 * a failing clone has written is not open. */
static void end_orphan(struct birth *birth)
{
	int32_t *tid = &birth->child->tid;
	siginfo_t info;

	for (int look = 0; __atomic_load_n(tid, __ATOMIC_ACQUIRE) && look < ORPHAN_LOOKS; look++)
		RAW4(futex, tid, FUTEX_WAIT, 1, &liveness_check);
	if (!__atomic_load_n(tid, __ATOMIC_ACQUIRE)) {
		waitid((idtype_t)P_PIDFD, (id_t)birth->pidfd, &info, WEXITED | __WALL); /* where orphans come to us */
		close(birth->pidfd);
	}
	birth->pidfd = -1;
	birth->pid = -ESRCH;
}

void clone_in_foster(struct foster *foster, struct birth *birth)
{
	foster->birth = birth;
	set_word(&foster->go, 1);
	if (wait_for_word(foster, &foster->done) < 0)
		end_orphan(birth);
	if (birth->pid > 0 && foster->pid != foster->own_pid) /* that was the number in another pid namespace */
		birth->pid = pid_of(birth->pidfd, (pid_t)birth->pid);
}

void end_foster(struct foster *foster)
{
	if (foster->done)
		has_ended_within(foster->pidfd, REAPS_WITHIN_MILLISECONDS);
	kill_and_reap(foster->pid, foster->pidfd);
	close(foster->pidfd);
	free_child(foster->child);
}

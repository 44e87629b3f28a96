/* See foster.h.
 *
 * exec(2) makes SIGCHLD the exit signal of any child. So the caller would get a SIGCHLD
 * for a tiny program, in the middle of a call that has nothing to do with processes, and
 * a waitpid(-1) in another thread would find a child that it knows nothing of. Here a
 * child in the caller's memory, which executes nothing and so has exit signal 0, makes
 * that program its own child, and reaps it.
 *
 * It may live as long as the program does, for it is in no other namespace and no other
 * cgroup than the caller: to the kernel it is one more thread of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
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

#define REAPS_WITHIN_MILLISECONDS 1000
#define LEAVES_WITHIN_NANOSECONDS 1000000000

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

/* Root in a namespace that it joins may stop it, which only its parent can see. */
static void continue_or_kill(int pidfd, int *stops)
{
	RAW4(pidfd_send_signal, pidfd, ++*stops > MAX_STOPS ? SIGKILL : SIGCONT, 0, 0);
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

static int is_set(void *word)
{
	return __atomic_load_n((int32_t *)word, __ATOMIC_ACQUIRE) != 0;
}

/* Until it has set the word. It may be killed before. */
static enum wait_result wait_for_word(const struct foster *foster, int32_t *word, const struct patience *patience,
				      struct failure *failure)
{
	struct event event = {.has_happened = is_set, .context = word, .socket = -1, .word = word,
			      .pidfd = foster->pidfd, .step = STEP_clone};

	return wait_for(&event, patience, failure);
}

static long clone_foster(struct foster *foster)
{
	unsigned long flags = CLONE_VM | CLONE_FILES | CLONE_PIDFD | CLONE_CHILD_CLEARTID | flag_against_debugger();
	uint64_t mask = block_signals();
	long pid;

	foster->child->tid = 1;
	pid = raw_clone(flags, stack_of(foster->child), &foster->pidfd, &foster->child->tid, foster_child, foster);
	if (pid < 0)
		foster->child->tid = 0;
	restore_signals(mask);
	return pid;
}

static int is_there(struct foster *foster, const struct patience *patience, struct failure *failure)
{
	switch (wait_for_word(foster, &foster->own_pid, patience, failure)) {
	case WAIT_HAPPENED:
		return 1;
	case WAIT_ENDED:
		fail(failure, STEP_clone, ESRCH);
		return 0;
	case WAIT_GAVE_UP:
		break;
	}
	return 0;
}

static struct foster *allocate_foster(void)
{
	struct foster *foster = calloc(1, sizeof(*foster));

	if (!foster)
		return NULL;
	foster->pidfd = -1;
	foster->child = allocate_child();
	if (foster->child)
		return foster;
	free(foster);
	return NULL;
}

static void free_foster(struct foster *foster)
{
	free_child(foster->child);
	free(foster);
}

/* Returns whether it is there; else nothing is left of it. */
static int run_foster(struct foster *foster, const struct patience *patience, struct failure *failure)
{
	long pid = clone_foster(foster);

	foster->pid = (pid_t)pid;
	if (pid < 0) {
		fail(failure, STEP_clone, (int)-pid);
		free_foster(foster);
		return 0;
	}
	if (is_there(foster, patience, failure))
		return 1;
	end_foster(foster);
	return 0;
}

struct foster *start_foster(const struct patience *patience, struct failure *failure)
{
	struct foster *foster = allocate_foster();
	int parent_pidfd, is_running;

	if (!foster) {
		fail(failure, STEP_prepare, errno);
		return NULL;
	}
	parent_pidfd = open_self(failure);
	if (parent_pidfd < 0) {
		free_foster(foster);
		return NULL;
	}
	foster->child->death.parent = (int32_t)getpid();
	foster->child->death.parent_pidfd = parent_pidfd;
	is_running = run_foster(foster, patience, failure);
	close(parent_pidfd);
	return is_running ? foster : NULL;
}

/* The foster was killed. A child that it has made ends by itself, but runs in the caller's memory until
 * then, which the kernel shows by `tid`. If that is not cleared, there is probably none: a pidfd that
 * a failing clone has written is not open. Its stack is not used again. */
static void end_orphan(struct birth *birth)
{
	struct patience patience = {.deadline = now() + LEAVES_WITHIN_NANOSECONDS, .cancelled = -1};
	struct failure ignored;

	if (wait_until_memory_is_left(birth->child, -1, STEP_clone, &patience, &ignored) == WAIT_HAPPENED &&
	    birth->pidfd >= 0)
		end_child(0, birth->pidfd, NULL);
	birth->pidfd = -1;
	birth->pid = -ESRCH;
}

void clone_in_foster(struct foster *foster, struct birth *birth, const struct patience *patience)
{
	struct failure ignored;

	foster->birth = birth;
	birth->child->tid = 1;
	set_word(&foster->go, 1);
	if (wait_for_word(foster, &foster->done, patience, &ignored) != WAIT_HAPPENED) {
		end_child(foster->pid, fcntl(foster->pidfd, F_DUPFD_CLOEXEC, 0), NULL);
		if (!is_set(&foster->done))
			end_orphan(birth);
	}
	if (birth->pid > 0 && foster->pid != foster->own_pid) /* that was the number in another pid namespace */
		birth->pid = pid_of(birth->pidfd, (pid_t)birth->pid);
}

void end_foster(struct foster *foster)
{
	if (foster->done)
		has_ended_within(foster->pidfd, REAPS_WITHIN_MILLISECONDS);
	end_child(foster->pid, foster->pidfd, NULL);
	free_foster(foster);
}

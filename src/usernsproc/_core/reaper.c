/* See reaper.h.
 *
 * exec(2) makes SIGCHLD the exit signal of any child. So the caller would get a SIGCHLD
 * for a helper program, in the middle of a call that has nothing to do with processes, and
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

#include "reaper.h"
#include "inline.h"

#define REAPS_WITHIN_MILLISECONDS 1000
#define LEAVES_WITHIN_NANOSECONDS 1000000000

static void set_word(int32_t *word, int32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	RAW3(futex, word, FUTEX_WAKE, 1);
}

/* ---- in the child; it follows the contract of child.c ---- */

static void wait_for_go(struct reaper *reaper)
{
	while (!__atomic_load_n(&reaper->go, __ATOMIC_ACQUIRE))
		RAW4(futex, &reaper->go, FUTEX_WAIT, 0, 0);
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

static void reaper_child(void *argument)
{
	struct reaper *reaper = argument;
	int pidfd;

	die_with_parent(&reaper->child->death, SIGKILL);
	set_word(&reaper->own_pid, (int32_t)RAW0(getpid));
	wait_for_go(reaper);
	clone_child(reaper->request);
	pidfd = reaper->request->pid < 0 ? -1 : reaper->request->pidfd;
	set_word(&reaper->done, 1); /* `request` may be gone from here on */
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
static enum wait_result wait_for_word(const struct reaper *reaper, int32_t *word, const struct patience *patience,
				      struct failure *failure)
{
	struct event event = {.has_happened = is_set, .context = word, .socket = -1, .word = word,
			      .pidfd = reaper->pidfd, .step = STEP_clone};

	return wait_for(&event, patience, failure);
}

static long clone_reaper(struct reaper *reaper)
{
	uint64_t mask = block_signals();
	long pid = clone_in_memory(reaper->child, CLONE_FILES | flag_against_debugger(), &reaper->pidfd, reaper_child, reaper);

	restore_signals(mask);
	return pid;
}

static int is_there(struct reaper *reaper, const struct patience *patience, struct failure *failure)
{
	enum wait_result result = wait_for_word(reaper, &reaper->own_pid, patience, failure);

	if (result == WAIT_ENDED)
		fail(failure, STEP_clone, ESRCH);
	return result == WAIT_HAPPENED;
}

static struct reaper *allocate_reaper(void)
{
	struct reaper *reaper = calloc(1, sizeof(*reaper));

	if (!reaper)
		return NULL;
	reaper->pidfd = -1;
	reaper->child = allocate_child();
	if (reaper->child)
		return reaper;
	free(reaper);
	return NULL;
}

static void free_reaper(struct reaper *reaper)
{
	free_child(reaper->child);
	free(reaper);
}

/* Returns whether it is there; else nothing is left of it. */
static int start_and_wait(struct reaper *reaper, const struct patience *patience, struct failure *failure)
{
	long pid = clone_reaper(reaper);

	reaper->pid = (pid_t)pid;
	if (pid < 0) {
		fail(failure, STEP_clone, (int)-pid);
		free_reaper(reaper);
		return 0;
	}
	if (is_there(reaper, patience, failure))
		return 1;
	end_reaper(reaper);
	return 0;
}

struct reaper *start_reaper(const struct patience *patience, struct failure *failure)
{
	struct reaper *reaper = allocate_reaper();
	struct borrowed self;
	int is_running;

	if (!reaper) {
		fail(failure, STEP_prepare, errno);
		return NULL;
	}
	reaper->child->death.parent_pidfd = borrow_self(&self, failure);
	if (reaper->child->death.parent_pidfd < 0) {
		free_reaper(reaper);
		return NULL;
	}
	reaper->child->death.parent = (int32_t)getpid();
	is_running = start_and_wait(reaper, patience, failure);
	give_back(self);
	return is_running ? reaper : NULL;
}

/* The reaper was killed. A child that it has made ends by itself, but runs in the caller's memory until
 * then, which the kernel shows by `tid`. If that is not cleared, there is probably none: a pidfd that
 * a failing clone has written is not open. Its stack is not used again. */
static void end_orphan(struct clone_request *request)
{
	struct patience patience = {.deadline = now() + LEAVES_WITHIN_NANOSECONDS, .cancelled = -1};
	struct failure ignored;

	if (wait_until_memory_is_left(request->child, -1, STEP_clone, &patience, &ignored) == WAIT_HAPPENED &&
	    request->pidfd >= 0)
		end_child(0, request->pidfd, NULL);
	request->pidfd = -1;
	request->pid = -ESRCH;
}

void clone_in_reaper(struct reaper *reaper, struct clone_request *request, const struct patience *patience)
{
	struct failure ignored;

	reaper->request = request;
	request->child->tid = 1;
	set_word(&reaper->go, 1);
	if (wait_for_word(reaper, &reaper->done, patience, &ignored) != WAIT_HAPPENED) {
		end_child(reaper->pid, fcntl(reaper->pidfd, F_DUPFD_CLOEXEC, 0), NULL);
		if (!is_set(&reaper->done))
			end_orphan(request);
	}
	if (request->pid > 0 && reaper->pid != reaper->own_pid) /* that was the number in another pid namespace */
		request->pid = pid_of(request->pidfd, (pid_t)request->pid);
}

void end_reaper(struct reaper *reaper)
{
	if (reaper->done)
		has_ended_within(reaper->pidfd, REAPS_WITHIN_MILLISECONDS);
	end_child(reaper->pid, reaper->pidfd, NULL);
	free_reaper(reaper);
}

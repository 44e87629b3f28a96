/* See clone.h. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clone.h"
#include "proven_proc.h"

struct clone_request *allocate_request(struct child *child, unsigned long flags)
{
	struct clone_request *request = malloc(sizeof(*request));

	if (request)
		*request = (struct clone_request){
			.child = child, .flags = flags | flag_against_debugger(), .pid = -1, .pidfd = -1};
	return request;
}

static long clone3_in_memory(struct child *child, uint64_t flags, int *pidfd, child_function *function, void *argument)
{
	struct raw_clone_args arguments = {
		.flags = flags,
		.pidfd = (uintptr_t)pidfd,
		.child_tid = (uintptr_t)&child->tid,
	};

	return raw_clone3(&arguments, stack_bottom_of(child), stack_of(child), function, argument);
}

/* clone(2) is preferred: seccomp profiles refuse clone3(2), whose flags they cannot see. A time namespace is created by
 * clone3(2) alone: its flag is part of the exit signal in clone(2). */
long clone_in_memory(struct child *child, unsigned long flags, int *pidfd, child_function *function, void *argument)
{
	long pid;

	flags |= CLONE_VM | CLONE_PIDFD | CLONE_CHILD_CLEARTID;
	child->tid = 1;
	if (flags & (CLONE_NEWTIME | CLONE_CLEAR_SIGHAND))
		pid = clone3_in_memory(child, flags, pidfd, function, argument);
	else
		pid = raw_clone(flags, stack_of(child), pidfd, &child->tid, function, argument);
	if (pid < 0)
		child->tid = 0;
	return pid;
}

static long clone_as_requested(struct clone_request *request, unsigned long more_flags)
{
	request->child->has_handlers = !(more_flags & CLONE_CLEAR_SIGHAND);
	return clone_in_memory(request->child, request->flags | more_flags, &request->pidfd, spawned_child,
			       request->child);
}

static int is_refusal(long pid)
{
	return pid == -ENOSYS || pid == -EINVAL || pid == -E2BIG || pid == -EPERM;
}

/* The kernel resets the handlers of a child that executes no image at once (Linux 5.5), which else takes a
 * system call for each signal. Where clone3(2) is refused but clone(2) is not, that is remembered. */
void clone_child(struct clone_request *request)
{
	static int is_refused;

	request->pid = -ENOSYS;
	if (request->child->image < 0 && !__atomic_load_n(&is_refused, __ATOMIC_RELAXED))
		request->pid = clone_as_requested(request, CLONE_CLEAR_SIGHAND);
	if (!is_refusal(request->pid))
		return;
	request->pid = clone_as_requested(request, 0);
	if (request->child->image < 0 && request->pid >= 0)
		__atomic_store_n(&is_refused, 1, __ATOMIC_RELAXED);
}

/* The kernel sends PR_SET_PDEATHSIG when the creating *thread* ends. So a child
 * that is to live as long as the process is made by a thread that lives as long
 * as the child. It is made by the calling thread and so has its affinity,
 * namespaces, seccomp filter and credentials; it sleeps until its only child
 * can be reaped, and leaves the reaping to others. While there may be several, one
 * after the other, it sleeps until the caller has the last one.
 *
 * A pthread and no bare clone: libc's setuid() has to find it.
 */
static void wait_for_post(sem_t *semaphore)
{
	while (sem_wait(semaphore) < 0)
		;
}

static void *keep(void *argument)
{
	struct clone_request *request = argument;
	sigset_t all;
	siginfo_t info;
	int has_second_process = request->has_second_process;
	long pid;

	block_signals();
	clone_child(request);
	pid = request->pid;
	/* All but the signals that libc itself needs to reach every thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	sem_post(&request->done); /* `request` may be freed from here on, unless there is a second process */
	if (pid < 0)
		return NULL;
	if (has_second_process) {
		wait_for_post(&request->settled);
		sem_post(&request->done);
	}
	while (waitid(P_ALL, 0, &info, WEXITED | WNOWAIT | __WALL | __WNOTHREAD) < 0 && errno == EINTR)
		;
	return NULL;
}

static int start_keeper(struct clone_request *request)
{
	pthread_attr_t attributes;
	int error = pthread_attr_init(&attributes);

	if (error)
		return error;
	/* Ample; where libc wants more (much static TLS), its own default. */
	pthread_attr_setstacksize(&attributes, 0x20000);
	error = pthread_create(&request->keeper, &attributes, keep, request);
	if (error == EINVAL)
		error = pthread_create(&request->keeper, NULL, keep, request);
	pthread_attr_destroy(&attributes);
	return error;
}

void clone_in_keeper(struct clone_request *request)
{
	sigset_t all;
	int error;

	/* The keeper inherits this. libc's own signals come through: a setuid() in
	 * another thread holds a lock that pthread_create() takes until this thread
	 * has answered. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	sem_init(&request->done, 0, 0);
	sem_init(&request->settled, 0, 0);
	error = start_keeper(request);
	if (error) {
		request->pid = -error;
	} else {
		request->has_keeper = 1;
		wait_for_post(&request->done);
	}
}

/* With a child it ends by itself. Without one it ends at once: wait, so that a failed
 * call leaves no thread; unless the child was killed and does not end. */
void release_keeper(struct clone_request *request, int has_child)
{
	if (!request->has_keeper)
		return;
	if (request->has_second_process && request->pid > 0) {
		sem_post(&request->settled);
		wait_for_post(&request->done);
	}
	sem_destroy(&request->done);
	sem_destroy(&request->settled);
	if (has_child)
		pthread_detach(request->keeper);
	else
		pthread_join(request->keeper, NULL);
}

int is_main_thread(void)
{
	return RAW0(gettid) == getpid();
}

static int is_zero(void *word)
{
	return __atomic_load_n((int32_t *)word, __ATOMIC_ACQUIRE) == 0;
}

/* The kernel clears the word and wakes the parent when the child leaves this memory, by exec or by
 * its end. */
enum wait_result wait_until_memory_is_left(struct child *child, int pidfd, enum step step,
					   const struct patience *patience, struct failure *failure)
{
	struct event event = {.has_happened = is_zero, .context = &child->tid, .socket = -1,
			      .word = &child->tid, .pidfd = pidfd, .step = step};

	return wait_for(&event, patience, failure);
}

/* The word is cleared, and the parent woken, early in an exec: the kernel then has
 * still to give the child its own memory and to close descriptors. The name of the
 * process comes after that. No pipe that exec closes would do: a fork in another
 * thread of the program could copy its other end, and keep it open for ever. */
int is_named(const struct spawned *spawned, const char *name)
{
	int directory = spawned->proc_dir >= 0 ? spawned->proc_dir : open_proc_dir_of(spawned->pidfd), fd;
	char text[32];
	ssize_t length;

	if (directory < 0)
		return directory;
	fd = open_in(directory, "comm", O_RDONLY);
	length = fd < 0 ? fd : read(fd, text, sizeof(text) - 1);
	if (fd >= 0 && length <= 0)
		length = length < 0 ? -errno : -ESRCH;
	close_if_open(fd);
	if (directory != spawned->proc_dir)
		close(directory);
	if (length < 0)
		return (int)length;
	text[length - 1] = 0; /* a newline */
	return strcmp(text, name) == 0;
}

struct naming {
	const struct spawned *spawned;
	const char *name;
	int unwanted, answer;
};

static int is_renamed(void *context)
{
	struct naming *naming = context;

	naming->answer = is_named(naming->spawned, naming->name);
	return naming->answer != naming->unwanted;
}

/* The rest of an exec takes microseconds, unless the child does not get a
 * processor. A name may also have been refused, by a seccomp filter. */
#define NAMED_WITHIN_NANOSECONDS 100000000
#define NAMED_LATE_NANOSECONDS 10000000000
#define LOOK_NANOSECONDS 50000

static enum wait_result wait_until_renamed(struct naming *naming, const struct patience *patience,
					   struct failure *failure)
{
	struct event event = {.has_happened = is_renamed, .context = naming, .socket = -1,
			      .pidfd = naming->spawned->pidfd, .spins = SPINS, .slice = LOOK_NANOSECONDS,
			      .step = STEP_exec};

	return wait_for(&event, patience, failure);
}

int wait_while(int answer, const struct spawned *spawned, const char *name)
{
	struct naming naming = {spawned, name, answer, answer};
	struct patience patience = {.deadline = now() + NAMED_WITHIN_NANOSECONDS, .cancelled = -1};
	struct failure ignored;

	wait_until_renamed(&naming, &patience, &ignored);
	return naming.answer;
}

/* A child has the seccomp filter of the calling thread. */
static int may_be_named(void)
{
	char name[16];

	return prctl(PR_GET_NAME, name) == 0 && prctl(PR_SET_NAME, name) == 0;
}

/* The name may be refused to the child alone, so this ends as well. */
static int64_t latest(const struct patience *patience)
{
	int64_t late = now() + NAMED_LATE_NANOSECONDS;

	return patience->deadline && patience->deadline < late ? patience->deadline : late;
}

int wait_until_named(const struct spawned *spawned, const char *name, int *answer, const struct patience *patience,
		     struct failure *failure)
{
	struct naming naming = {spawned, name, 0, wait_while(0, spawned, name)};
	struct patience bounded = *patience;
	enum wait_result result = WAIT_HAPPENED;

	bounded.deadline = latest(patience);
	if (naming.answer == 0 && may_be_named())
		result = wait_until_renamed(&naming, &bounded, failure);
	*answer = naming.answer;
	if (result == WAIT_GAVE_UP && bounded.deadline != patience->deadline && failure->error == ETIMEDOUT)
		return failure->gave_up = 0;
	return result == WAIT_GAVE_UP ? -1 : 0;
}

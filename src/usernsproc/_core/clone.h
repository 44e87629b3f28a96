/* Starting a child by clone, in the calling thread or in a keeper. */
#ifndef USERNSPROC_CLONE_H
#define USERNSPROC_CLONE_H

#include <pthread.h>
#include <semaphore.h>

#include "core.h"
#include "stack.h"
#include "wait.h"

/* What it takes to start the child, and what came of it. On the heap: a keeper or a reaper
 * uses it while Python code runs, and a library of greenlets may then move the caller's stack. */
struct clone_request {
	struct child *child;
	unsigned long flags;
	long pid; /* or -errno */
	int pidfd;
	int has_second_process; /* it starts other children of the same parent, and ends */
	int has_keeper;
	pthread_t keeper;
	sem_t done, settled;
};

/* NULL: no memory. free() it, after release_keeper(). */
struct clone_request *allocate_request(struct child *child, unsigned long flags);

/* Starts a function on the child's stack. All signals have to be blocked. A pid, or a negative errno. */
long clone_in_memory(struct child *child, unsigned long flags, int *pidfd, child_function *function, void *argument);

/* The result is in `request`. For the first, all signals have to be blocked; the
 * second blocks what has to be, and both leave the mask to be restored. */
void clone_child(struct clone_request *request);
void clone_in_keeper(struct clone_request *request);
void release_keeper(struct clone_request *request, int has_child);
int is_main_thread(void);

/* Wait until the child runs no longer in the caller's memory: it executes, or has ended. */
enum wait_result wait_until_memory_is_left(struct child *child, int pidfd, enum step step,
					   const struct patience *patience, struct failure *failure);

/* Whether the child has this name now: 1 or 0, -errno if /proc does not show it. */
int is_named(const struct spawned *spawned, const char *name);

/* Wait until that is no longer the answer, or the process has ended, but not for
 * longer than a moment; returns the last answer. */
int wait_while(int answer, const struct spawned *spawned, const char *name);

/* Wait until that has become the name of an internal helper program; not for longer than a moment if a seccomp filter refuses
 * names. Gives the last answer of is_named(). */
int wait_until_named(const struct spawned *spawned, const char *name, int *answer, const struct patience *patience,
		     struct failure *failure);

#endif

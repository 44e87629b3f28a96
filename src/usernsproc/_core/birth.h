/* Starting a child by clone, in the calling thread or in a keeper. */
#ifndef USERNSPROC_BIRTH_H
#define USERNSPROC_BIRTH_H

#include <pthread.h>
#include <semaphore.h>

#include "stack.h"

/* What it takes to start the child, and what came of it. */
struct birth {
	struct child *child;
	unsigned long namespaces;
	int cgroup;
	int in_cgroup; /* it was placed there already */
	long pid;      /* or -errno */
	int pidfd;
	int has_successor; /* it makes another child of ours that goes on, and ends */
	int has_keeper;
	pthread_t keeper;
	sem_t done;
};

/* The result is in `birth`. For the first, all signals have to be blocked; the
 * second blocks what has to be, and both leave the mask to be restored. */
void clone_child(struct birth *birth);
void clone_in_keeper(struct birth *birth);
void let_go_of_keeper(struct birth *birth, int has_child);
int is_main_thread(void);

/* Wait until the child runs no longer in our memory: it executes, or has ended. */
void wait_until_memory_is_left(struct child *child, int pidfd);

/* Whether the child has this name now: 1 or 0, -errno where /proc does not tell. */
int is_named(const struct spawned *spawned, const char *name);

/* Wait until that is no longer the answer, or the process has ended, but not for
 * longer than a moment; gives the last answer. */
int wait_while(int answer, const struct spawned *spawned, const char *name);

/* Descriptors for children, none of them 0, 1 or 2. */
int open_self(struct failure *failure);
int open_report(int report[2], struct failure *failure);
int open_pipe(int ends[2], struct failure *failure);
void close_if_open(int fd);

#endif

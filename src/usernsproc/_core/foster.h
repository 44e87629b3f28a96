/* An intermediate parent, so that the caller gets no SIGCHLD for a child. */
#ifndef USERNSPROC_FOSTER_H
#define USERNSPROC_FOSTER_H

#include "birth.h"

/* On the heap, as struct birth. */
struct foster {
	struct child *child; /* itself */
	int pidfd;
	pid_t pid;
	/* Words that both wait on with futex(2). */
	int32_t own_pid; /* as its children see it */
	int32_t go;	 /* `birth` says what to start */
	int32_t done;	 /* it says what came of it */
	struct birth *birth;
};

/* NULL: see `failure`. */
struct foster *start_foster(const struct patience *patience, struct failure *failure);
/* As clone_child(). */
void clone_in_foster(struct foster *foster, struct birth *birth, const struct patience *patience);
/* When its child, if any, has ended. It frees what start_foster() has returned. */
void end_foster(struct foster *foster);

#endif

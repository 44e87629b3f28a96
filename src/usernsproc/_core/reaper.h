/* An intermediate parent, so that the caller gets no SIGCHLD for a child. */
#ifndef USERNSPROC_REAPER_H
#define USERNSPROC_REAPER_H

#include "clone.h"

/* On the heap, as struct clone_request. */
struct reaper {
	struct child *child; /* itself */
	int pidfd;
	pid_t pid;
	/* Words that both wait on with futex(2). */
	int32_t own_pid; /* as its children see it */
	int32_t go;	 /* `request` says what to start */
	int32_t done;	 /* it says what came of it */
	struct clone_request *request;
};

/* NULL: see `failure`. */
struct reaper *start_reaper(const struct patience *patience, struct failure *failure);
/* As clone_child(). */
void clone_in_reaper(struct reaper *reaper, struct clone_request *request, const struct patience *patience);
/* When its child, if any, has ended. It frees what start_reaper() has returned. */
void end_reaper(struct reaper *reaper);

#endif

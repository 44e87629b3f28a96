/* The one way in which the core waits for a child. */
#ifndef USERNSPROC_WAIT_H
#define USERNSPROC_WAIT_H

#include "core.h"

/* What is waited for. The wait looks, sleeps, and looks again. */
struct event {
	int (*has_happened)(void *context);
	void *context;
	/* What wakes it: the end of the child, always; and one of these. */
	int socket;	/* readable or hung up; -1: none */
	short wakes;	/* POLLIN, or 0: a hang-up alone */
	int32_t *word;	/* changed and woken with futex(2); NULL: none */
	int pidfd;	/* of the child, which is continued when it is stopped */
	int spins;	/* so often it looks before it sleeps: to be woken takes longer */
	int64_t slice;	/* so long it sleeps at most before it looks again, in nanoseconds; 0: the usual time */
	enum step step; /* reported when the caller gives up */
};

enum wait_result { WAIT_GAVE_UP = -1, WAIT_ENDED, WAIT_HAPPENED };

/* WAIT_ENDED: the child has ended and the event has not happened. WAIT_GAVE_UP: the
 * patience is at its end, see `failure`. */
enum wait_result wait_for(const struct event *event, const struct patience *patience, struct failure *failure);

int64_t now(void); /* CLOCK_MONOTONIC, nanoseconds */

int has_ended_within(int pidfd, int milliseconds);
int has_ended(int pidfd);

#endif

/* Checks that are counted and reported, and what they look at. */
#ifndef USERNSPROC_TEST_CHECK_H
#define USERNSPROC_TEST_CHECK_H

#include <stdint.h>
#include <sys/types.h>

#include "core.h"

#define SURVIVAL_MILLISECONDS 400 /* a process that is still there then, stays */
#define PATIENCE_MILLISECONDS 10000

/* Before the first check, in the process that forks those which run a part of
 * them: they count together. */
void start_counting(void);
/* Prints the numbers, as the last line. */
void tell_result(void);

/* One line, "SUBJECT: WHAT". Gives `good` back. */
int check(int good, const char *subject, const char *what);
void check_text(const char *got, const char *wanted, const char *subject, const char *what);
/* Whether a call of the core failed with that step and errno; with STEP_none,
 * whether it did not fail. */
int check_outcome(long result, const struct failure *failure, enum step step, int error,
		  const char *subject);

/* What a call may not leave behind or change. */
struct traces {
	char descriptors[512], threads[512];
	uint64_t mask;
};

void look(struct traces *traces);
void check_nothing_left(const struct traces *before, const char *subject);

/* White space as the kernel aligns it becomes one space. */
const char *squeeze(char *text);
/* Of a file, squeezed; "" if there is none. Valid until the next one. */
const char *contents(const char *path);
const char *contents_of(pid_t pid, const char *file);
/* The word behind "NAME:" in the text of a /proc/PID/status. */
const char *status(const char *text, const char *name);
/* The names in a directory in ascending order; not the descriptor that reads
 * it, if that is among them. */
const char *names_in(const char *path);
/* Before a program is executed that was put together at run time. QEMU (7.2) does
 * not notice all that s390x' long moves write, as those of the kernel in write(2):
 * where a page held such a program before, it may go on with the old code. It
 * does notice plain stores, so have some into the pages that were last freed,
 * which are the next to be used. */
void forget_old_code(void);
/* Whether the process of a pidfd does. */
int ends_within(int pidfd, int milliseconds);

#endif

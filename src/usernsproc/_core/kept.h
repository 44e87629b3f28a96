/* Descriptors that stay open for the next call: the launcher's image, a pidfd of this process, the root of a procfs.
 *
 * They are close-on-exec, and above 2. A program closes descriptors that it does not know, and
 * opens others at their numbers. So each use begins with a look whether the same file is there.
 */
#ifndef USERNSPROC_KEPT_H
#define USERNSPROC_KEPT_H

#include <stdint.h>

#include "beneath.h"
#include "core.h"

#define PIDFD_OF_THREAD O_EXCL /* PIDFD_THREAD, Linux 6.9 */

/* The inode is not enough where a file system can be mounted twice. mount: 0 before Linux 6.8. */
struct identity {
	uint64_t device, inode, mount;
};

/* Returns 0, or -1. */
int identify(int fd, struct identity *identity);

struct kept {
	struct identity identity;
	uint64_t generation; /* of the copy of the program that has opened it */
	int fd;		     /* 0: none */
	int openings;
	int finding;
};

/* Whether the same file is still there, or a negative errno if that cannot be determined; its owner and mode. */
int is_still_there(const struct kept *kept, struct whereabouts *found);

/* fd: or a negative errno. */
struct borrowed {
	int fd;
	int is_kept; /* else it is closed after the call */
	int finding; /* what was found out about one that is kept */
};

void give_back(struct borrowed borrowed);

/* A pidfd of this process, by which a child knows whether it lives; returns the descriptor, or -1. Kept where each
 * process has a file of its own in pidfs (Linux 6.9). */
int borrow_self(struct borrowed *self, struct failure *failure);

/* An O_PATH descriptor of the root of a procfs. ENOENT: there is no /proc. Kept where the number of a mount is
 * never that of another (Linux 6.8): the mount that was proven is used as long as this program runs, whatever
 * is mounted there later. */
struct borrowed borrow_proc_root(void);

#endif

/* /proc, proven and not believed. Functions return a descriptor, or a negative errno:
 * EXDEV where /proc is not a procfs, or something is mounted over what is asked for. */
#ifndef USERNSPROC_PROVEN_PROC_H
#define USERNSPROC_PROVEN_PROC_H

#include <stddef.h>
#include <sys/types.h>

#include "kept.h"

/* For kept.c, and for children: one that is not kept. */
int open_proc_root(void);
int has_own_numbers(int root);

/* A file of /proc: "self/status", "123/task". */
int open_proc(const char *path, int flags);

/* The same in a directory that is open already, such as one of /proc/PID; also for
 * other file systems. */
int open_in(int directory, const char *path, int flags);

/* Where a link of /proc leads, also a magic one. `directory` -1: the root of /proc. The
 * text is terminated; returns its length. */
ssize_t read_link_in(int directory, const char *path, char *text, size_t size);

/* A namespace by its link: "thread-self/ns/user", "fd/3" in /proc/PID. `directory` -1: as above. */
int open_namespace_link(int directory, const char *path);

/* By the name of its link: "user", "pid_for_children". Without /proc where the kernel can
 * (Linux 6.11); the first only so. */
int open_namespace_by_pidfd(int pidfd, const char *name);
int open_namespace(int pidfd, int proc_dir, const char *name);
int open_own_namespace(const char *name); /* of the calling thread */

/* An O_PATH descriptor once more, for reading. */
int reopen(int fd, int flags);

/* What this /proc calls the process of a pidfd; 0: it is in a pid namespace that is not
 * below that of this /proc, -1: it was reaped. EBADF: the descriptor is not a pidfd.
 *
 * This /proc may have been mounted for another pid namespace than the caller's: there the number
 * that clone(2) gave is that of another process. */
int find_pid_in_proc(int root, int pidfd, pid_t *pid);
/* Whether it was mounted for the caller's, so that the caller's numbers are those of this /proc. */
int has_pids_of_caller(struct borrowed root);

#endif

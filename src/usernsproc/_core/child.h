/* The child's side of clone: what the parent prepares, and what it gets back.
 *
 * A `struct child` lies in a mapping of its own, above the child's stack, and not on
 * the parent's, which a library of greenlets moves while Python code runs. The
 * parent fills it before the clone, the child writes only `failure`, `state`
 * and nothing else of the parent's memory.
 */
#ifndef USERNSPROC_CHILD_H
#define USERNSPROC_CHILD_H

#include "kept.h"
#include "rawsys.h"

enum child_state { CHILD_STARTED, CHILD_EXECUTING };

struct child {
	struct plan plan;
	struct parent_death death; /* as it is to be once the child is on its own */
	struct borrowed self;	   /* whose descriptor is also in `death` */
	uint64_t signal_mask;	   /* of the calling thread, to be restored */

	/* One of the helper programs, to execute in place of the command, or -1. */
	int image;
	int image_is_shared; /* it stays open */
	char *const *image_argv, *const *image_envp;
	char **launcher_argv;
	struct launcher_parameters *block; /* what a launcher is sent */
	int is_launcher; /* that is a launcher: it inherits these two, and all capabilities */
	int socket;	 /* its end of one */
	int init_socket; /* see struct launcher_parameters */
	int has_handlers; /* of the caller's for signals */
	int cgroup;	 /* a directory of cgroup v2 that it is to enter, or -1 */
	int proc;	 /* the root of a procfs, where close_range(2) is missing; or -1 */

	/* Words that parent and child wait on with futex(2). */
	int32_t go;  /* set by the parent: maps are written, continue */
	int32_t tid; /* cleared by the kernel when the child leaves this memory */

	/* Written by the child. */
	int32_t state;
	struct failure failure;
};

child_function spawned_child, transient_child;

#endif

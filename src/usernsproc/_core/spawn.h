/* The parent's side of a command or a holder: prepare.c, report.c and cgroup.c are parts of spawn.c. */
#ifndef USERNSPROC_SPAWN_H
#define USERNSPROC_SPAWN_H

#include "child.h"

/* ---- prepare.c: what a child is given before it is created ---- */

/* Whether it executes a launcher in place of the command or the holder. */
int needs_launcher(const struct plan *plan);
/* The launcher creates others of the same parent, one after the other, and ends. */
int needs_second_process(const struct plan *plan);
uint64_t current_signal_mask(void);

/* Descriptors, and the helper program that it executes, if any. */
int prepare_image(struct plan *plan, struct child *child, int sockets[2], struct spawned *spawned,
		  struct failure *failure);

/* The command's arguments, behind one that ends with the number of the launcher's socket; free() it. NULL: no memory. */
char **launcher_argv(int socket, char *const *argv);
int move_above_targets(int *fd, const struct plan *plan, struct failure *failure);

/* ---- report.c: the socket to a launcher ---- */

/* What it needs to know. */
int send_parameters(int socket, const struct launcher_parameters *block, const struct spawned *spawned,
		    const struct patience *patience, struct failure *failure);

/* Wait until the launcher is where the command is to run, and its namespaces are there.
 * `spawned` may be another child from then on. */
int wait_for_namespaces(int socket, const struct plan *plan, struct spawned *spawned, struct failure *failure);

/* The maps are written. */
int release_launcher(int socket, struct failure *failure);

/* Wait until the command is executed, or what failed is known. */
int read_report(int socket, const struct spawned *spawned, const struct patience *patience,
		struct failure *failure);

/* It has failed already: by what else it has reported, if anything. Always -1. */
int failure_of_launcher(int socket, struct failure *failure);

/* ---- cgroup.c: where clone3(2) cannot place a child in a cgroup ---- */

int move_to_cgroup(int cgroup, pid_t pid, struct failure *failure);

#endif

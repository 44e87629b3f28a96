/* The parent's side of the socket to a launcher. */
#ifndef USERNSPROC_REPORT_H
#define USERNSPROC_REPORT_H

#include "core.h"

/* What it needs to know. */
int send_parameters(int socket, const struct launcher_parameters *block, const struct spawned *spawned,
		    const struct patience *patience, struct failure *failure);

/* Wait until the launcher is where the command is to run, and its namespaces are there.
 * `spawned` may be another child from then on. */
int wait_until_founded(int socket, const struct plan *plan, struct spawned *spawned, struct failure *failure);

/* The maps are written. */
int let_go_on(int socket, struct failure *failure);

/* Wait until the command is executed, or what failed is known. */
int read_report(int socket, const struct spawned *spawned, const struct patience *patience,
		struct failure *failure);

/* It has failed already: by what else it has told, if anything. Always -1. */
int blame_launcher(int socket, struct failure *failure);

#endif

/* What a child is given before it is created. */
#ifndef USERNSPROC_PREPARE_H
#define USERNSPROC_PREPARE_H

#include "child.h"

/* Whether it executes a launcher in place of the command or the holder. */
int needs_launcher(const struct plan *plan);
/* The launcher creates others of the same parent, one after the other, and ends. */
int has_hops(const struct plan *plan);
uint64_t current_signal_mask(void);

/* Descriptors, and the tiny program that it executes, if any. */
int prepare_image(struct plan *plan, struct child *child, int report[2], struct spawned *spawned,
		  struct failure *failure);

#endif

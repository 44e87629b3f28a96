/* Descriptors that are opened once, when the module is loaded, and stay open: close-on-exec, none of them 0, 1 or 2.
 * A program may close what it does not know. Then there is none any more, and each call opens one of its own. */
#ifndef USERNSPROC_KEPT_H
#define USERNSPROC_KEPT_H

#include <sys/stat.h>

#include "core.h"

void open_kept_descriptors(void);

/* The launcher's image, with its status; -1: there is none. */
int kept_image(struct stat *status);

/* A pidfd of this process, by which a child knows whether it lives: the one that is kept, or one of the call's own. */
int open_self(struct failure *failure);

/* For what may be kept. -1 is none. */
void close_unless_kept(int fd);

#endif

/* Descriptors for children, none of them 0, 1 or 2. */
#ifndef USERNSPROC_DESCRIPTORS_H
#define USERNSPROC_DESCRIPTORS_H

#include "core.h"

/* Takes over a descriptor, and gives one above 2; of -1 it gives -1. */
int above_stdio(int fd);
/* A pidfd of this process, by which a child knows whether it lives. */
int open_self(struct failure *failure);
int open_pipe(int ends[2], struct failure *failure);
/* A socket, and not a pipe: it carries descriptors, and answers. */
int open_report(int report[2], struct failure *failure);
void close_if_open(int fd);
void close_keeping_errno(int fd);

#endif

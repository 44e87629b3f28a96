/* Placing a child in a cgroup of version 2 where clone3(2) cannot. */
#ifndef USERNSPROC_CGROUP_H
#define USERNSPROC_CGROUP_H

#include "core.h"

int move_to_cgroup(int cgroup, pid_t pid, struct failure *failure);

#endif

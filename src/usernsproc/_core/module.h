/* The Python side of the core: what its files share. Limited API of CPython 3.11. */
#ifndef USERNSPROC_MODULE_H
#define USERNSPROC_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core.h"

struct module_state {
	PyObject *failure, *gave_up; /* exceptions */
	PyObject *owned_fd, *child;  /* types */
};

/* fd.c: an object that closes the descriptor; NULL: it was closed, and an exception is set. */
PyObject *own_fd(PyObject *module, int fd);
PyObject *fd_or_error(PyObject *module, long fd); /* or a negative errno, which is raised */
int add_owned_fd(PyObject *module);

/* child_type.c: an object that kills and reaps the child, and closes its pidfd; NULL: that was done, and an
 * exception is set. */
PyObject *own_child(PyObject *module, pid_t pid, int pidfd);
/* It owns the socket and the reaper as well. */
void give_to_child(PyObject *child, const struct spawned *spawned);
/* It has ended, and is reaped. */
void forget_child(PyObject *child);
int add_child(PyObject *module);

/* spawn_values.c: from the groups of values that spawn() gets, which have to outlive it.
 * -1: an exception is set; free_plan() in either case. */
enum { GROUPS_OF_VALUES = 8 };
int get_plan(PyObject *groups, struct plan *plan);
void free_plan(struct plan *plan);

/* module_calls.c: system calls for Python */
int add_system_calls(PyObject *module);

/* module_proc.c: files of a proven /proc, namespaces by it or without, the caller */
int add_proc_calls(PyObject *module);

#endif

/* The Python side of the core: what its files share. Limited API of CPython 3.11. */
#ifndef USERNSPROC_MODULE_H
#define USERNSPROC_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core.h"

struct module_state {
	PyObject *failure, *gave_up; /* exceptions */
	PyObject *owned_fd;	     /* a type */
	PyObject *names_of_fields;   /* of a Plan */
};

/* fd.c: an object that closes the descriptor; NULL: it was closed, and an exception is set. */
PyObject *own_fd(PyObject *module, int fd);
PyObject *fd_or_error(PyObject *module, long fd); /* or a negative errno, which is raised */
int add_owned_fd(PyObject *module);

/* module_plan.c: from a Plan, which has to outlive it, with the names of its attributes.
 * -1: an exception is set; free_plan() in either case. */
PyObject *names_of_fields(void);
int get_plan(PyObject *object, PyObject *names, struct plan *plan);
void free_plan(struct plan *plan);

/* module_calls.c: thin system calls */
int add_system_calls(PyObject *module);

/* module_namespaces.c: namespaces by their number */
int add_namespace_calls(PyObject *module);

/* module_proc.c: files of a proven /proc, namespaces by it or without, the caller */
int add_proc_calls(PyObject *module);

#endif

/* The Python side of the core: what its files share. Limited API of CPython 3.11. */
#ifndef USERNSPROC_MODULE_H
#define USERNSPROC_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core.h"

/* module_plan.c: from a _plan.Plan, which has to outlive it. -1: an exception is set;
 * free_plan() in either case. */
int get_plan(PyObject *object, struct plan *plan);
void free_plan(struct plan *plan);

/* module_calls.c: thin system calls */
int add_system_calls(PyObject *module);

/* module_namespaces.c: namespaces by their number */
int add_namespace_calls(PyObject *module);

#endif

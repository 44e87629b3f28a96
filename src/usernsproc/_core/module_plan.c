/* A Plan of Python as a struct plan. */
#include "module.h"

#include <limits.h>
#include <string.h>

extern char **environ;

static int get_long(PyObject *plan, const char *name, long *value)
{
	PyObject *attribute = PyObject_GetAttrString(plan, name);

	if (!attribute)
		return -1;
	*value = PyLong_AsLong(attribute);
	Py_DECREF(attribute);
	return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

static int get_int(PyObject *plan, const char *name, int *value)
{
	long wide = 0;

	if (get_long(plan, name, &wide) < 0)
		return -1;
	if (wide < INT_MIN || wide > INT_MAX) {
		PyErr_Format(PyExc_OverflowError, "%s does not fit into a C int", name);
		return -1;
	}
	*value = (int)wide;
	return 0;
}

/* The plan keeps the bytes alive. */
static int get_text(PyObject *plan, const char *name, const char **text)
{
	PyObject *attribute = PyObject_GetAttrString(plan, name);
	char *bytes = NULL;
	int result = 0;

	if (!attribute)
		return -1;
	if (attribute != Py_None) /* a NUL inside is a ValueError */
		result = PyBytes_AsStringAndSize(attribute, &bytes, NULL);
	Py_DECREF(attribute);
	*text = bytes;
	return result;
}

/* A NULL-terminated vector of the bytes in a tuple; PyMem_Free() it. */
static char **vector_of(PyObject *tuple)
{
	Py_ssize_t length = PyTuple_Size(tuple);
	char **vector;

	if (length < 0)
		return NULL;
	vector = PyMem_Calloc((size_t)length + 1, sizeof(char *));
	if (!vector) {
		PyErr_NoMemory();
		return NULL;
	}
	for (Py_ssize_t i = 0; i < length; i++) {
		if (PyBytes_AsStringAndSize(PyTuple_GetItem(tuple, i), &vector[i], NULL) < 0) {
			PyMem_Free(vector);
			return NULL;
		}
	}
	return vector;
}

static char **get_vector(PyObject *plan, const char *name)
{
	PyObject *attribute = PyObject_GetAttrString(plan, name);
	char **vector = attribute ? vector_of(attribute) : NULL;

	Py_XDECREF(attribute);
	return vector;
}

/* Another thread may change the environment as soon as we let go of the GIL,
 * and the child reads it in our memory: take a copy, in one block. */
static char **copy_of_environ(void)
{
	size_t count = 0, size = 0, length;
	char **copy, *text;

	for (char **entry = environ; entry && *entry; entry++, count++)
		size += strlen(*entry) + 1;
	copy = PyMem_Malloc((count + 1) * sizeof(char *) + size);
	if (!copy) {
		PyErr_NoMemory();
		return NULL;
	}
	text = (char *)(copy + count + 1);
	for (size_t i = 0; i < count; i++, text += length) {
		length = strlen(environ[i]) + 1;
		copy[i] = memcpy(text, environ[i], length);
	}
	copy[count] = NULL;
	return copy;
}

static char **get_environment(PyObject *plan)
{
	PyObject *attribute = PyObject_GetAttrString(plan, "envp");
	char **vector = NULL;

	if (attribute)
		vector = attribute == Py_None ? copy_of_environ() : vector_of(attribute);
	Py_XDECREF(attribute);
	return vector;
}

/* The numbers in a tuple of ints from 0 to 2**32 - 1; PyMem_Free() them. */
static uint32_t *get_numbers(PyObject *plan, const char *name, int *count)
{
	PyObject *tuple = PyObject_GetAttrString(plan, name);
	Py_ssize_t length = tuple ? PyTuple_Size(tuple) : -1;
	uint32_t *numbers = length < 0 ? NULL : PyMem_Calloc((size_t)length + 1, sizeof(uint32_t));

	for (Py_ssize_t i = 0; numbers && i < length; i++) {
		unsigned long number = PyLong_AsUnsignedLong(PyTuple_GetItem(tuple, i));

		if (PyErr_Occurred()) {
			PyMem_Free(numbers);
			numbers = NULL;
		} else {
			numbers[i] = (uint32_t)number;
		}
	}
	Py_XDECREF(tuple);
	*count = (int)length;
	if (!numbers && !PyErr_Occurred())
		PyErr_NoMemory();
	return numbers;
}

/* -1: leave the id alone */
static int get_id(PyObject *plan, const char *name, int32_t *set, uint32_t *id)
{
	long value;

	if (get_long(plan, name, &value) < 0)
		return -1;
	*set = value >= 0;
	*id = (uint32_t)value;
	return 0;
}

static int get_numbers_of_plan(PyObject *object, struct plan *plan)
{
	struct place *place = &plan->place;
	int set_groups, no_new_privs;
	long namespaces, ambient, propagation;

	if (get_int(object, "is_holder", &plan->is_alone) < 0 ||
	    get_int(object, "stdin", &plan->stdio[0]) < 0 ||
	    get_int(object, "stdout", &plan->stdio[1]) < 0 ||
	    get_int(object, "stderr", &plan->stdio[2]) < 0 ||
	    get_int(object, "close_fds", &plan->close_fds) < 0 ||
	    get_int(object, "restore_signals", &plan->restore_signals) < 0 ||
	    get_int(object, "start_new_session", &place->start_new_session) < 0 ||
	    get_int(object, "init", &plan->is_init) < 0 ||
	    get_int(object, "mount_proc", &place->mount_proc) < 0 ||
	    get_long(object, "propagation", &propagation) < 0 ||
	    get_id(object, "owner", &plan->founding.set_owner, &plan->founding.owner) < 0 ||
	    get_int(object, "umask", &place->umask) < 0 ||
	    get_int(object, "process_group", &place->process_group) < 0 ||
	    get_int(object, "death_signal", &plan->death_signal) < 0 ||
	    get_int(object, "set_groups", &set_groups) < 0 ||
	    get_int(object, "no_new_privs", &no_new_privs) < 0 ||
	    get_int(object, "cgroup", &plan->cgroup) < 0 ||
	    get_long(object, "namespaces", &namespaces) < 0 ||
	    get_long(object, "ambient_caps", &ambient) < 0 ||
	    get_id(object, "uid", &plan->credentials.set_uid, &plan->credentials.uid) < 0 ||
	    get_id(object, "gid", &plan->credentials.set_gid, &plan->credentials.gid) < 0)
		return -1;
	plan->credentials.set_groups = set_groups;
	plan->privileges.no_new_privs = no_new_privs;
	plan->privileges.ambient = (uint64_t)ambient;
	plan->founding.namespaces = (uint64_t)namespaces;
	place->propagation = (uint64_t)propagation;
	return 0;
}

static int get_texts_of_plan(PyObject *object, struct plan *plan)
{
	if (get_text(object, "setgroups", &plan->maps.setgroups) < 0 ||
	    get_text(object, "uid_map", &plan->maps.uid_map) < 0 ||
	    get_text(object, "gid_map", &plan->maps.gid_map) < 0 ||
	    get_text(object, "cwd", &plan->place.cwd) < 0)
		return -1;
	return 0;
}

static int get_memory_of_plan(PyObject *object, struct plan *plan)
{
	int group_count;

	plan->command.argv = get_vector(object, "argv");
	if (plan->command.argv)
		plan->command.candidates = get_vector(object, "candidates");
	if (plan->command.candidates)
		plan->command.envp = get_environment(object);
	if (plan->command.envp)
		plan->keep = (int *)get_numbers(object, "keep_fds", &plan->keep_count);
	if (plan->keep)
		plan->credentials.groups = get_numbers(object, "groups", &group_count);
	if (!plan->credentials.groups)
		return -1;
	plan->credentials.group_count = (uint32_t)group_count;
	return 0;
}

/* Pairs: descriptor, kind, descriptor, kind, … */
static int get_joins(PyObject *object, struct plan *plan)
{
	int count;
	uint32_t *numbers = get_numbers(object, "joins", &count);

	plan->founding.joins = (struct join *)numbers;
	plan->founding.join_count = numbers ? (uint32_t)count / 2 : 0;
	return numbers ? 0 : -1;
}

/* None: that of the calling thread */
static int get_signal_mask(PyObject *object, struct plan *plan)
{
	PyObject *attribute = PyObject_GetAttrString(object, "signal_mask");
	uint64_t *mask = NULL;

	if (attribute && attribute != Py_None) {
		mask = PyMem_Malloc(sizeof(*mask));
		if (mask)
			*mask = PyLong_AsUnsignedLongLong(attribute);
		else
			PyErr_NoMemory();
	}
	Py_XDECREF(attribute);
	plan->signal_mask = mask;
	return PyErr_Occurred() ? -1 : 0;
}

void free_plan(struct plan *plan)
{
	PyMem_Free((void *)plan->signal_mask);
	PyMem_Free((void *)plan->founding.joins);
	PyMem_Free((void *)plan->command.argv);
	PyMem_Free((void *)plan->command.candidates);
	PyMem_Free((void *)plan->command.envp);
	PyMem_Free(plan->keep);
	PyMem_Free((void *)plan->credentials.groups);
}

int get_plan(PyObject *object, struct plan *plan)
{
	static const struct place place = {NAMES_OF_PLACE};

	memset(plan, 0, sizeof(*plan));
	plan->place = place;
	if (get_numbers_of_plan(object, plan) < 0 || get_texts_of_plan(object, plan) < 0 ||
	    get_signal_mask(object, plan) < 0 || get_joins(object, plan) < 0)
		return -1;
	return get_memory_of_plan(object, plan);
}

/* The values that Python gives to spawn() as a struct plan. */
#include "module.h"

#include <limits.h>
#include <string.h>

extern char **environ;

/* ---- from what a field of Python holds to what one of C holds ---- */

static int take_number(PyObject *value, struct plan *plan, void *field)
{
	long number = PyLong_AsLong(value);

	(void)plan;
	if (number == -1 && PyErr_Occurred())
		return -1;
	if (number < INT_MIN || number > INT_MAX) {
		PyErr_SetNone(PyExc_OverflowError); /* whose: see name_field() */
		return -1;
	}
	*(int *)field = (int)number;
	return 0;
}

static int take_flags(PyObject *value, struct plan *plan, void *field)
{
	unsigned long flags = PyLong_AsUnsignedLong(value);

	(void)plan;
	*(uint64_t *)field = flags;
	return PyErr_Occurred() ? -1 : 0;
}

/* Nanoseconds of CLOCK_MONOTONIC; 0: none */
static int take_time(PyObject *value, struct plan *plan, void *field)
{
	long long time = PyLong_AsLongLong(value);

	(void)plan;
	*(int64_t *)field = time;
	return time == -1 && PyErr_Occurred() ? -1 : 0;
}

/* -1: leave the id alone */
static int take_id(PyObject *value, struct plan *plan, void *field)
{
	struct optional_id *id = field;
	long number = PyLong_AsLong(value);

	(void)plan;
	if (number == -1 && PyErr_Occurred())
		return -1;
	id->is_set = number >= 0;
	id->id = (uint32_t)number;
	return 0;
}

/* A str, or None. The tuple keeps it alive. */
static int take_text(PyObject *value, struct plan *plan, void *field)
{
	const char *text = value == Py_None ? NULL : PyUnicode_AsUTF8AndSize(value, NULL);

	(void)plan;
	*(const char **)field = text;
	return text || value == Py_None ? 0 : -1;
}

/* Each as bytes: what is a str or a path as os.fsencode() has it. */
static PyObject *encoded(PyObject *sequence)
{
	PyObject *words = PySequence_Tuple(sequence), *bytes;
	Py_ssize_t count = words ? PyTuple_Size(words) : 0;
	PyObject *result = words ? PyTuple_New(count) : NULL;

	for (Py_ssize_t i = 0; result && i < count; i++)
		if (!PyUnicode_FSConverter(PyTuple_GetItem(words, i), &bytes) || PyTuple_SetItem(result, i, bytes) < 0)
			Py_CLEAR(result);
	Py_XDECREF(words);
	return result;
}

/* A NULL-terminated vector and what it points to, in one block; PyMem_Free() it. */
static char **vector_of(PyObject *tuple)
{
	size_t count = (size_t)PyTuple_Size(tuple), size = 0, length;
	char **vector, *text;

	for (size_t i = 0; i < count; i++)
		size += (size_t)PyBytes_Size(PyTuple_GetItem(tuple, (Py_ssize_t)i)) + 1;
	vector = PyMem_Malloc((count + 1) * sizeof(char *) + size);
	if (!vector) {
		PyErr_NoMemory();
		return NULL;
	}
	text = (char *)(vector + count + 1);
	for (size_t i = 0; i < count; i++, text += length) {
		PyObject *bytes = PyTuple_GetItem(tuple, (Py_ssize_t)i);

		length = (size_t)PyBytes_Size(bytes) + 1;
		vector[i] = memcpy(text, PyBytes_AsString(bytes), length);
	}
	vector[count] = NULL;
	return vector;
}

static int take_vector(PyObject *value, struct plan *plan, void *field)
{
	PyObject *words = encoded(value);
	char **vector = words ? vector_of(words) : NULL;

	(void)plan;
	*(char ***)field = vector;
	Py_XDECREF(words);
	return vector ? 0 : -1;
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

static int take_environment(PyObject *value, struct plan *plan, void *field)
{
	if (value != Py_None)
		return take_vector(value, plan, field);
	*(char ***)field = copy_of_environ();
	return *(char ***)field ? 0 : -1;
}

static int check_tuple(PyObject *value)
{
	if (PyTuple_Check(value))
		return 0;
	PyErr_Format(PyExc_TypeError, "a tuple is needed, not %R", value);
	return -1;
}

/* Those in a tuple of ints from 0 to 2**32 - 1. */
static uint32_t *numbers_of(PyObject *tuple, Py_ssize_t *count)
{
	uint32_t *numbers;

	if (check_tuple(tuple) < 0)
		return NULL;
	*count = PyTuple_Size(tuple);
	numbers = PyMem_Calloc((size_t)*count + 1, sizeof(*numbers));
	if (!numbers)
		PyErr_NoMemory();
	for (Py_ssize_t i = 0; numbers && i < *count; i++) {
		numbers[i] = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GetItem(tuple, i));
		if (PyErr_Occurred()) {
			PyMem_Free(numbers);
			numbers = NULL;
		}
	}
	return numbers;
}

static int take_descriptors_to_keep(PyObject *value, struct plan *plan, void *field)
{
	Py_ssize_t count;

	(void)field;
	plan->keep = (int *)numbers_of(value, &count);
	plan->keep_count = (int)count;
	return plan->keep ? 0 : -1;
}

/* ---- the calls of the set-up ---- */

struct packing {
	struct system_call *calls;
	char *data;
	size_t calls_size, data_size, used;
};

/* An int is a number, bytes are the address of a copy of them. */
static int pack_argument(PyObject *value, struct packing *packing, struct system_call *call, int n)
{
	if (!PyBytes_Check(value)) {
		call->arguments[n] = (uint64_t)PyLong_AsLongLong(value);
		return PyErr_Occurred() ? -1 : 0;
	}
	size_t size = (size_t)PyBytes_Size(value) + 1; /* with a NUL at the end */

	call->pointers |= 1 << n;
	call->arguments[n] = packing->used;
	memcpy(packing->data + packing->used, PyBytes_AsString(value), size);
	packing->used += size;
	return 0;
}

/* (number, needs, (errno, errno), arguments, …): the rest is for messages. */
static int pack_call(PyObject *tuple, struct packing *packing, struct system_call *call)
{
	PyObject *arguments, *ignored;

	if (!PyArg_ParseTuple(tuple, "ii(ii)O!OO", &call->number, &call->needs, &call->tolerated[0],
			      &call->tolerated[1], &PyTuple_Type, &arguments, &ignored, &ignored))
		return -1;
	for (int n = 0; n < (int)PyTuple_Size(arguments); n++)
		if (pack_argument(PyTuple_GetItem(arguments, n), packing, call, n) < 0)
			return -1;
	return 0;
}

/* What the data of a call takes; -1: it is none. */
static Py_ssize_t size_of_data(PyObject *call)
{
	PyObject *arguments = PyTuple_Check(call) && PyTuple_Size(call) > 3 ? PyTuple_GetItem(call, 3) : NULL;
	Py_ssize_t size = 0;

	if (!arguments || !PyTuple_Check(arguments) || PyTuple_Size(arguments) > 5) {
		PyErr_Format(PyExc_TypeError, "a system call with at most 5 arguments is needed, not %R", call);
		return -1;
	}
	for (Py_ssize_t n = 0; n < PyTuple_Size(arguments); n++)
		if (PyBytes_Check(PyTuple_GetItem(arguments, n)))
			size += PyBytes_Size(PyTuple_GetItem(arguments, n)) + 1;
	return size;
}

static int take_calls(PyObject *value, struct plan *plan, void *field)
{
	struct setup *setup = field;
	struct packing packing = {.used = 0};
	Py_ssize_t count, size;

	(void)plan;
	if (check_tuple(value) < 0)
		return -1;
	count = PyTuple_Size(value);
	for (Py_ssize_t i = 0; i < count; i++, packing.data_size += (size_t)size)
		if ((size = size_of_data(PyTuple_GetItem(value, i))) < 0)
			return -1;
	packing.calls_size = (size_t)count * sizeof(struct system_call);
	packing.calls = PyMem_Calloc(1, packing.calls_size + packing.data_size + 1);
	if (!packing.calls) {
		PyErr_NoMemory();
		return -1;
	}
	packing.data = (char *)packing.calls + packing.calls_size;
	*setup = (struct setup){packing.calls, packing.data, (uint32_t)count, (uint32_t)packing.data_size, 0, 0, 0};
	for (int i = 0; i < (int)count; i++) {
		packing.calls[i].step = STEP_COUNT + i;
		if (pack_call(PyTuple_GetItem(value, i), &packing, &packing.calls[i]) < 0)
			return -1;
		if (setup->needs < packing.calls[i].needs)
			setup->needs = packing.calls[i].needs;
	}
	return 0;
}

static int take_shared_count(PyObject *value, struct plan *plan, void *field)
{
	if (take_number(value, plan, field) < 0)
		return -1;
	if (plan->setup.shared_count > plan->setup.count) {
		PyErr_SetString(PyExc_TypeError, "there are fewer calls");
		return -1;
	}
	return 0;
}

static int take_nothing(PyObject *value, struct plan *plan, void *field)
{
	(void)value, (void)plan, (void)field; /* for messages */
	return 0;
}

/* Pairs: descriptor, kind, descriptor, kind, … */
static int take_joins(PyObject *value, struct plan *plan, void *field)
{
	Py_ssize_t count;

	(void)field;
	plan->namespaces.joins = (struct join *)numbers_of(value, &count);
	plan->namespaces.join_count = (uint32_t)count / 2;
	return plan->namespaces.joins ? 0 : -1;
}

/* None: that of the calling thread */
static int take_signal_mask(PyObject *value, struct plan *plan, void *field)
{
	uint64_t *mask;

	(void)field;
	if (value == Py_None)
		return 0;
	plan->signal_mask = mask = PyMem_Malloc(sizeof(*mask));
	if (!mask) {
		PyErr_NoMemory();
		return -1;
	}
	*mask = PyLong_AsUnsignedLongLong(value);
	return PyErr_Occurred() ? -1 : 0;
}

/* ---- all of a plan ---- */

struct field {
	const char *group, *name;
	int (*take)(PyObject *value, struct plan *plan, void *field);
	size_t offset;
};

#define FIELD(group, name, take, member) {#group, #name, take, offsetof(struct plan, member)}

/* The tuples of _spawn.py, in the order of their fields. */
static const struct field fields[] = {
	FIELD(namespaces, flags, take_flags, namespaces.flags),
	FIELD(namespaces, joins, take_joins, namespaces.joins),
	FIELD(namespaces, owner, take_id, namespaces.owner),
	FIELD(namespaces, init, take_number, is_init),
	FIELD(maps, setgroups, take_text, maps.setgroups),
	FIELD(maps, uid_map, take_text, maps.uid_map),
	FIELD(maps, gid_map, take_text, maps.gid_map),
	FIELD(program, argv, take_vector, command.argv),
	FIELD(program, candidates, take_vector, command.candidates),
	FIELD(program, envp, take_environment, command.envp),
	FIELD(program, restore_signals, take_number, restore_signals),
	FIELD(program, filename, take_nothing, restore_signals),
	FIELD(files, stdin, take_number, stdio[0]),
	FIELD(files, stdout, take_number, stdio[1]),
	FIELD(files, stderr, take_number, stdio[2]),
	FIELD(files, keep, take_descriptors_to_keep, keep),
	FIELD(files, close, take_number, close_fds),
	FIELD(setup, calls, take_calls, setup),
	FIELD(setup, shared_count, take_shared_count, setup.shared_count),
	FIELD(setup, ambient_caps, take_flags, setup.ambient),
	FIELD(signals, mask, take_signal_mask, signal_mask),
	FIELD(signals, death, take_number, death_signal),
	FIELD(patience, deadline, take_time, patience.deadline),
	FIELD(patience, cancelled, take_number, patience.cancelled),
	FIELD(cgroup, fd, take_number, cgroup),
	FIELD(cgroup, filename, take_nothing, cgroup),
};

enum { FIELDS = sizeof(fields) / sizeof(fields[0]) };

/* The number of those of the group that begins there. */
static int group_size(int first)
{
	int count = 1;

	while (first + count < FIELDS && strcmp(fields[first + count].group, fields[first].group) == 0)
		count++;
	return count;
}

/* A wrong type, or a number that is too large, of this one. */
static int name_field(const struct field *field)
{
	PyObject *type, *value, *traceback;

	if (PyErr_ExceptionMatches(PyExc_OverflowError) && field->take == take_number) {
		PyErr_Format(PyExc_OverflowError, "%s does not fit into a C int", field->name);
	} else if (PyErr_ExceptionMatches(PyExc_TypeError) && field->take != take_vector) {
		PyErr_Fetch(&type, &value, &traceback);
		PyErr_Format(PyExc_TypeError, "%s.%s: %S", field->group, field->name, value);
		Py_XDECREF(type);
		Py_XDECREF(value);
		Py_XDECREF(traceback);
	}
	return -1;
}

static int get_group(PyObject *tuple, const struct field *first, int count, struct plan *plan)
{
	if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != count) {
		PyErr_Format(PyExc_TypeError, "%s: a tuple of %d fields is needed, not %R", first->group, count, tuple);
		return -1;
	}
	for (int i = 0; i < count; i++)
		if (first[i].take(PyTuple_GetItem(tuple, i), plan, (char *)plan + first[i].offset) < 0)
			return name_field(&first[i]);
	return 0;
}

int get_plan(PyObject *groups, struct plan *plan)
{
	static char *const nothing[] = {NULL};
	int count;

	memset(plan, 0, sizeof(*plan));
	plan->command = (struct command){nothing, nothing, nothing};
	plan->is_helper = 1;
	for (int i = 0, group = 0; i < FIELDS; i += count, group++) {
		PyObject *tuple = PyTuple_GetItem(groups, group);

		count = group_size(i);
		if (fields[i].take == take_vector) {
			if (tuple == Py_None)
				continue;
			plan->is_helper = 0;
			plan->command = (struct command){NULL, NULL, NULL};
		}
		if (get_group(tuple, &fields[i], count, plan) < 0)
			return -1;
	}
	return 0;
}

void free_plan(struct plan *plan)
{
	PyMem_Free((void *)plan->signal_mask);
	PyMem_Free((void *)plan->namespaces.joins);
	if (!plan->is_helper) {
		PyMem_Free((void *)plan->command.argv);
		PyMem_Free((void *)plan->command.candidates);
		PyMem_Free((void *)plan->command.envp);
	}
	PyMem_Free(plan->keep);
	PyMem_Free((void *)plan->setup.calls);
}

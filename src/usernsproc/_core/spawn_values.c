/* The values that Python gives to spawn() as a struct plan. */
#include "module.h"

#include <limits.h>
#include <string.h>

extern char **environ;

/* ---- from what a field of Python holds to what one of C holds ---- */

static int take_number(PyObject *value, void *field)
{
	long number = PyLong_AsLong(value);

	if (number == -1 && PyErr_Occurred())
		return -1;
	if (number < INT_MIN || number > INT_MAX) {
		PyErr_SetNone(PyExc_OverflowError); /* whose: see name_field() */
		return -1;
	}
	*(int *)field = (int)number;
	return 0;
}

static int take_flags(PyObject *value, void *field)
{
	*(uint64_t *)field = PyLong_AsUnsignedLong(value);
	return PyErr_Occurred() ? -1 : 0;
}

/* Nanoseconds of CLOCK_MONOTONIC; 0: none */
static int take_time(PyObject *value, void *field)
{
	*(int64_t *)field = PyLong_AsLongLong(value);
	return PyErr_Occurred() ? -1 : 0;
}

/* -1: leave the id alone */
static int take_id(PyObject *value, void *field)
{
	long number = PyLong_AsLong(value);

	*(struct optional_id *)field = (struct optional_id){number >= 0, (uint32_t)number};
	return PyErr_Occurred() ? -1 : 0;
}

/* A str, or None. The tuple keeps it alive. */
static int take_text(PyObject *value, void *field)
{
	*(const char **)field = value == Py_None ? NULL : PyUnicode_AsUTF8AndSize(value, NULL);
	return PyErr_Occurred() ? -1 : 0;
}

/* A block to be given to PyMem_Free(); zeros. */
static void *block_of(size_t size)
{
	void *block = PyMem_Calloc(1, size + 1);

	if (!block)
		PyErr_NoMemory();
	return block;
}

/* A copy of a vector that ends with NULL, and of what it points to, in one block. */
static char **copy_of_vector(char *const *texts)
{
	size_t count = 0, size = 0;
	char **copy, *text;

	for (; texts && texts[count]; count++)
		size += strlen(texts[count]) + 1;
	copy = block_of((count + 1) * sizeof(char *) + size);
	text = (char *)(copy + count + 1);
	for (size_t i = 0; copy && i < count; i++, text += strlen(text) + 1)
		copy[i] = strcpy(text, texts[i]);
	return copy;
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

static int take_vector(PyObject *value, void *field)
{
	PyObject *words = encoded(value);
	Py_ssize_t count = words ? PyTuple_Size(words) : 0;
	char **texts = words ? block_of(((size_t)count + 1) * sizeof(char *)) : NULL;

	for (Py_ssize_t i = 0; texts && i < count; i++)
		texts[i] = PyBytes_AsString(PyTuple_GetItem(words, i));
	if (texts)
		*(char ***)field = copy_of_vector(texts);
	PyMem_Free(texts);
	Py_XDECREF(words);
	return PyErr_Occurred() ? -1 : 0;
}

/* Another thread may change the environment as soon as the GIL is released, and the child reads it in the memory of the
 * caller: a copy is taken. */
static int take_environment(PyObject *value, void *field)
{
	if (value != Py_None)
		return take_vector(value, field);
	*(char ***)field = copy_of_vector(environ);
	return PyErr_Occurred() ? -1 : 0;
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
	numbers = block_of((size_t)*count * sizeof(*numbers));
	for (Py_ssize_t i = 0; numbers && i < *count; i++)
		numbers[i] = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GetItem(tuple, i));
	if (!PyErr_Occurred())
		return numbers;
	PyMem_Free(numbers);
	return NULL;
}

static int take_descriptors(PyObject *value, void *field)
{
	struct descriptors *descriptors = field;
	Py_ssize_t count = 0;

	descriptors->fds = (int *)numbers_of(value, &count);
	descriptors->count = (int)count;
	return descriptors->fds ? 0 : -1;
}

/* Pairs: descriptor, kind, descriptor, kind, … */
static int take_joins(PyObject *value, void *field)
{
	struct namespaces *namespaces = field;
	Py_ssize_t count = 0;

	namespaces->joins = (struct join *)numbers_of(value, &count);
	namespaces->join_count = (uint32_t)count / 2;
	return namespaces->joins ? 0 : -1;
}

/* None: that of the calling thread */
static int take_signal_mask(PyObject *value, void *field)
{
	uint64_t *mask = value == Py_None ? NULL : block_of(sizeof(*mask));

	*(uint64_t **)field = mask;
	if (mask)
		*mask = PyLong_AsUnsignedLongLong(value);
	return PyErr_Occurred() ? -1 : 0;
}

/* ---- the calls of the set-up ---- */

/* A copy of bytes, to be given to PyMem_Free(). */
static void *copy_of_bytes(PyObject *value, size_t *size)
{
	char *bytes, *copy;
	Py_ssize_t length;

	if (PyBytes_AsStringAndSize(value, &bytes, &length) < 0)
		return NULL;
	copy = block_of((size_t)length);
	*size = (size_t)length;
	return copy ? memcpy(copy, bytes, *size) : NULL;
}

static int take_calls(PyObject *value, void *field)
{
	struct setup *setup = field;
	size_t size = 0;

	setup->calls = copy_of_bytes(value, &size);
	setup->count = (uint32_t)(size / sizeof(*setup->calls));
	return setup->calls ? 0 : -1;
}

static int take_data(PyObject *value, void *field)
{
	struct setup *setup = field;
	size_t size = 0;

	setup->data = copy_of_bytes(value, &size);
	setup->data_size = (uint32_t)size;
	return setup->data ? 0 : -1;
}

static int take_ends(PyObject *value, void *field)
{
	int32_t *ends = field;

	if (check_tuple(value) < 0 || !PyArg_ParseTuple(value, "iiii", &ends[0], &ends[1], &ends[2], &ends[3]))
		return -1;
	return 0;
}

static int lies_within(uint64_t offset, size_t size, const struct setup *setup)
{
	return offset <= setup->data_size && size <= setup->data_size - offset;
}

static int is_sound_call(const struct system_call *call, const struct setup *setup)
{
	for (int n = 0; n < 6; n++) {
		if (call->pointers >> n & 1 && !lies_within(call->arguments[n], 1, setup))
			return 0;
		if (call->results >> n & 1 && !lies_within(call->arguments[n], sizeof(int64_t), setup))
			return 0;
	}
	return call->result == -1 || (call->result >= 0 && lies_within((uint64_t)call->result, sizeof(int64_t), setup));
}

static int is_sound(const struct setup *setup)
{
	int32_t end = 0;

	for (int i = 0; i < SECTIONS; end = setup->ends[i++])
		if (setup->ends[i] < end)
			return 0;
	for (uint32_t i = 0; i < setup->count; i++)
		if (!is_sound_call(&setup->calls[i], setup))
			return 0;
	return end == (int32_t)setup->count;
}

static int take_nothing(PyObject *value, void *field)
{
	(void)value, (void)field; /* for messages */
	return 0;
}

/* ---- all of a plan ---- */

struct field {
	const char *group, *name;
	int (*take)(PyObject *value, void *field);
	size_t offset;
};

#define FIELD(group, name, take, member) {#group, #name, take, offsetof(struct plan, member)}

/* The tuples of _spawn.py, in the order of their fields. */
static const struct field fields[] = {
	FIELD(namespaces, flags, take_flags, namespaces.flags),
	FIELD(namespaces, joins, take_joins, namespaces),
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
	FIELD(files, keep, take_descriptors, keep),
	FIELD(files, close, take_number, close_fds),
	FIELD(setup, calls, take_calls, setup),
	FIELD(setup, data, take_data, setup),
	FIELD(setup, ends, take_ends, setup.ends),
	FIELD(setup, needs, take_number, setup.needs),
	FIELD(setup, ambient_caps, take_flags, setup.ambient),
	FIELD(setup, fds, take_descriptors, setup.fds),
	FIELD(setup, least_fd, take_number, setup.least_fd),
	FIELD(setup, labels, take_nothing, setup),
	FIELD(signals, mask, take_signal_mask, signal_mask),
	FIELD(signals, death, take_number, death_signal),
	FIELD(signals, hidden, take_number, is_hidden),
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
		if (first[i].take(PyTuple_GetItem(tuple, i), (char *)plan + first[i].offset) < 0)
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
	if (is_sound(&plan->setup))
		return 0;
	PyErr_SetString(PyExc_TypeError, "setup: a call, or a section, goes beyond what is there");
	return -1;
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
	PyMem_Free(plan->keep.fds);
	PyMem_Free((void *)plan->setup.calls);
	PyMem_Free(plan->setup.data);
	PyMem_Free(plan->setup.fds.fds);
}

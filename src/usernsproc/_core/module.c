/* The Python side of the core: converts arguments, lets go of the GIL, calls,
 * and raises Failure(step, errno). Wording and policy are in Python.
 *
 * Limited API of CPython 3.11.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core.h"
#include "inline.h"

extern char **environ;

struct module_state {
	PyObject *failure;
};

#define STEP_NAME(name) #name,
static const char *const step_names[] = {STEPS(STEP_NAME)};
#undef STEP_NAME

static PyObject *raise_failure(PyObject *module, const struct failure *failure)
{
	struct module_state *state = PyModule_GetState(module);
	PyObject *arguments = Py_BuildValue("(si)", step_names[failure->step], (int)failure->error);

	if (arguments) {
		PyErr_SetObject(state->failure, arguments);
		Py_DECREF(arguments);
	}
	return NULL;
}

/* ---- attributes of a plan ---- */

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
	int set_groups, no_new_privs;
	long namespaces, ambient;

	if (get_int(object, "is_holder", &plan->is_alone) < 0 ||
	    get_int(object, "stdin", &plan->stdio[0]) < 0 ||
	    get_int(object, "stdout", &plan->stdio[1]) < 0 ||
	    get_int(object, "stderr", &plan->stdio[2]) < 0 ||
	    get_int(object, "close_fds", &plan->close_fds) < 0 ||
	    get_int(object, "restore_signals", &plan->restore_signals) < 0 ||
	    get_int(object, "start_new_session", &plan->start_new_session) < 0 ||
	    get_int(object, "umask", &plan->umask) < 0 ||
	    get_int(object, "process_group", &plan->process_group) < 0 ||
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
	plan->namespaces = (unsigned long)namespaces;
	return 0;
}

static int get_texts_of_plan(PyObject *object, struct plan *plan)
{
	if (get_text(object, "setgroups", &plan->maps.setgroups) < 0 ||
	    get_text(object, "uid_map", &plan->maps.uid_map) < 0 ||
	    get_text(object, "gid_map", &plan->maps.gid_map) < 0 ||
	    get_text(object, "cwd", &plan->cwd) < 0)
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

static void free_memory_of_plan(struct plan *plan)
{
	PyMem_Free((void *)plan->command.argv);
	PyMem_Free((void *)plan->command.candidates);
	PyMem_Free((void *)plan->command.envp);
	PyMem_Free(plan->keep);
	PyMem_Free((void *)plan->credentials.groups);
}

/* ---- functions ---- */

struct call {
	PyObject *between; /* callable(pid, pidfd) or NULL */
	PyThreadState *thread;
};

static int call_between(void *context, pid_t pid, int pidfd)
{
	struct call *call = context;
	PyObject *result;

	PyEval_RestoreThread(call->thread);
	result = PyObject_CallFunction(call->between, "ii", (int)pid, pidfd);
	Py_XDECREF(result);
	call->thread = PyEval_SaveThread();
	return result ? 0 : -1;
}

static PyObject *spawn_plan(PyObject *module, struct plan *plan, PyObject *between)
{
	struct call call = {.between = between == Py_None ? NULL : between};
	struct spawned spawned;
	struct failure failure;
	int result;

	if (call.between) {
		plan->between = call_between;
		plan->between_context = &call;
	}
	call.thread = PyEval_SaveThread();
	result = spawn(plan, &spawned, &failure);
	PyEval_RestoreThread(call.thread);
	if (result == 0)
		return Py_BuildValue("(iii)", (int)spawned.pid, spawned.pidfd, spawned.image_on_disk);
	return PyErr_Occurred() ? NULL : raise_failure(module, &failure);
}

PyDoc_STRVAR(spawn_doc, "spawn(plan, between) -> (pid, pidfd, image_on_disk)\n\n"
			"Start what the plan says. between(pid, pidfd) is called while the child\n"
			"exists and is mapped, and has not yet run the command.");

static PyObject *core_spawn(PyObject *module, PyObject *arguments)
{
	PyObject *object, *between, *result = NULL;
	struct plan plan;

	memset(&plan, 0, sizeof(plan));
	if (!PyArg_ParseTuple(arguments, "OO:spawn", &object, &between))
		return NULL;
	if (get_numbers_of_plan(object, &plan) == 0 && get_texts_of_plan(object, &plan) == 0 &&
	    get_memory_of_plan(object, &plan) == 0)
		result = spawn_plan(module, &plan, between);
	free_memory_of_plan(&plan);
	return result;
}

PyDoc_STRVAR(create_userns_doc, "create_userns(setgroups, uid_map, gid_map) -> fd\n\n"
				"A user namespace with these maps (bytes, or None: unwritten).");

static PyObject *core_create_userns(PyObject *module, PyObject *arguments)
{
	struct maps maps;
	struct failure failure;
	int userns;

	if (!PyArg_ParseTuple(arguments, "zzz:create_userns", &maps.setgroups, &maps.uid_map,
			      &maps.gid_map))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	userns = create_userns(&maps, &failure);
	Py_END_ALLOW_THREADS
	return userns < 0 ? raise_failure(module, &failure) : PyLong_FromLong(userns);
}

PyDoc_STRVAR(read_maps_doc, "read_maps(userns) -> bytes\n\n"
			    "uid_map, NUL, gid_map of a user namespace, from its descriptor alone.");

static PyObject *core_read_maps(PyObject *module, PyObject *arguments)
{
	char buffer[0x8000]; /* two maps of 340 lines of 33 bytes */
	struct failure failure;
	ssize_t length;
	int userns;

	if (!PyArg_ParseTuple(arguments, "i:read_maps", &userns))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	length = read_maps(userns, buffer, sizeof(buffer), &failure);
	Py_END_ALLOW_THREADS
	return length < 0 ? raise_failure(module, &failure) : PyBytes_FromStringAndSize(buffer, length);
}

/* The initial user namespace has a fixed inode number (PROC_USER_INIT_INO). All
 * threads of a process share one user namespace. */
static int in_initial_userns(void)
{
	static const char initial[] = "user:[4026531837]";
	char own[sizeof(initial)];
	ssize_t length = readlink("/proc/self/ns/user", own, sizeof(own));

	return length < 0 || (length == sizeof(initial) - 1 && memcmp(own, initial, (size_t)length) == 0);
}

/* A map of 340 ranges has 340 lines of 33 bytes. */
#define MAP_SIZE 0x4000

static PyObject *own_map(const char *path)
{
	char text[MAP_SIZE];
	ssize_t length = 0, part = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		while (length < MAP_SIZE && (part = read(fd, text + length, (size_t)(MAP_SIZE - length))) > 0)
			length += part;
		close(fd);
	}
	if (fd < 0 || part < 0)
		return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
	return PyUnicode_FromStringAndSize(text, length);
}

PyDoc_STRVAR(caller_doc, "caller() -> (uid, gid, capabilities, uid_map, gid_map)\n\n"
			 "Effective ids and capabilities of the calling thread; the texts of the\n"
			 "maps of its user namespace, None in the initial one.\n"
			 "Keeps the GIL: a few system calls that cannot block.");

static PyObject *core_caller(PyObject *module, PyObject *ignored)
{
	struct capabilities own;
	unsigned long long effective = 0;
	PyObject *uid_map, *gid_map;

	(void)module;
	(void)ignored;
	if (get_capabilities(&own) == 0)
		effective = (unsigned long long)own.high.effective << 32 | own.low.effective;
	if (in_initial_userns())
		return Py_BuildValue("(kkKOO)", (unsigned long)geteuid(), (unsigned long)getegid(), effective,
				     Py_None, Py_None);
	uid_map = own_map("/proc/self/uid_map");
	if (!uid_map)
		return NULL;
	gid_map = own_map("/proc/self/gid_map");
	if (!gid_map) {
		Py_DECREF(uid_map);
		return NULL;
	}
	return Py_BuildValue("(kkKNN)", (unsigned long)geteuid(), (unsigned long)getegid(), effective, uid_map,
			     gid_map);
}

PyDoc_STRVAR(exit_status_doc, "exit_status(pidfd) -> int\n\n"
			      "The wait status of a process that somebody else has reaped, by\n"
			      "PIDFD_GET_INFO; -1 where the kernel does not keep it (Linux < 6.15).");

static PyObject *core_exit_status(PyObject *module, PyObject *arguments)
{
	long status;
	int pidfd;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "i:exit_status", &pidfd))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	status = pidfd_exit_status(pidfd);
	Py_END_ALLOW_THREADS
	return PyLong_FromLong(status);
}

/* ---- thin system calls, as in os: OSError with the errno ---- */

static PyObject *result_of(long result)
{
	return result < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(result);
}

PyDoc_STRVAR(setns_doc, "setns(fd, nstype)\n\nsetns(2) for the calling thread.");

static PyObject *core_setns(PyObject *module, PyObject *arguments)
{
	int fd, nstype;
	long result;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "ii:setns", &fd, &nstype))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	result = syscall(__NR_setns, fd, nstype);
	Py_END_ALLOW_THREADS
	return result_of(result);
}

PyDoc_STRVAR(open_tree_doc, "open_tree(dirfd, path, flags) -> fd\n\nopen_tree(2), Linux 5.2.");

static PyObject *core_open_tree(PyObject *module, PyObject *arguments)
{
	const char *path;
	unsigned flags;
	long result;
	int dirfd;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "iyI:open_tree", &dirfd, &path, &flags))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	result = syscall(__NR_open_tree, dirfd, path, flags);
	Py_END_ALLOW_THREADS
	return result_of(result);
}

/* struct mount_attr of Linux 5.12, its first size */
struct mount_attr_v0 {
	uint64_t attr_set, attr_clr, propagation, userns_fd;
};

PyDoc_STRVAR(mount_setattr_doc,
	     "mount_setattr(dirfd, path, flags, attr_set, attr_clr, propagation, userns_fd)\n\n"
	     "mount_setattr(2), Linux 5.12.");

static PyObject *core_mount_setattr(PyObject *module, PyObject *arguments)
{
	unsigned long long set, clear, propagation, userns;
	struct mount_attr_v0 attributes;
	const char *path;
	unsigned flags;
	long result;
	int dirfd;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "iyIKKKK:mount_setattr", &dirfd, &path, &flags, &set, &clear,
			      &propagation, &userns))
		return NULL;
	attributes = (struct mount_attr_v0){set, clear, propagation, userns};
	Py_BEGIN_ALLOW_THREADS
	result = syscall(__NR_mount_setattr, dirfd, path, flags, &attributes, sizeof(attributes));
	Py_END_ALLOW_THREADS
	return result_of(result);
}

PyDoc_STRVAR(move_mount_doc, "move_mount(from_dirfd, from_path, to_dirfd, to_path, flags)\n\n"
			     "move_mount(2), Linux 5.2.");

static PyObject *core_move_mount(PyObject *module, PyObject *arguments)
{
	const char *from_path, *to_path;
	int from_dirfd, to_dirfd;
	unsigned flags;
	long result;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "iyiyI:move_mount", &from_dirfd, &from_path, &to_dirfd, &to_path,
			      &flags))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	result = syscall(__NR_move_mount, from_dirfd, from_path, to_dirfd, to_path, flags);
	Py_END_ALLOW_THREADS
	return result_of(result);
}

PyDoc_STRVAR(umount2_doc, "umount2(target, flags)\n\numount2(2).");

static PyObject *core_umount2(PyObject *module, PyObject *arguments)
{
	const char *target;
	long result;
	int flags;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "yi:umount2", &target, &flags))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	result = syscall(__NR_umount2, target, flags);
	Py_END_ALLOW_THREADS
	return result_of(result);
}

/* ---- the module ---- */

static PyMethodDef methods[] = {
	{"spawn", core_spawn, METH_VARARGS, spawn_doc},
	{"create_userns", core_create_userns, METH_VARARGS, create_userns_doc},
	{"read_maps", core_read_maps, METH_VARARGS, read_maps_doc},
	{"caller", core_caller, METH_NOARGS, caller_doc},
	{"exit_status", core_exit_status, METH_VARARGS, exit_status_doc},
	{"setns", core_setns, METH_VARARGS, setns_doc},
	{"open_tree", core_open_tree, METH_VARARGS, open_tree_doc},
	{"mount_setattr", core_mount_setattr, METH_VARARGS, mount_setattr_doc},
	{"move_mount", core_move_mount, METH_VARARGS, move_mount_doc},
	{"umount2", core_umount2, METH_VARARGS, umount2_doc},
	{NULL, NULL, 0, NULL},
};

/* The encoding of ioctl numbers differs between architectures. */
static int add_constants(PyObject *module)
{
	if (PyModule_AddIntConstant(module, "NS_GET_USERNS", NS_GET_USERNS) < 0 ||
	    PyModule_AddIntConstant(module, "NS_GET_PARENT", NS_GET_PARENT) < 0 ||
	    PyModule_AddIntConstant(module, "NS_GET_NSTYPE", NS_GET_NSTYPE) < 0 ||
	    PyModule_AddIntConstant(module, "NS_GET_OWNER_UID", NS_GET_OWNER_UID) < 0)
		return -1;
	return 0;
}

static int module_exec(PyObject *module)
{
	struct module_state *state = PyModule_GetState(module);

	state->failure = PyErr_NewExceptionWithDoc("usernsproc._core.Failure", "(step, errno)", NULL, NULL);
	if (!state->failure || PyModule_AddObjectRef(module, "Failure", state->failure) < 0)
		return -1;
	return add_constants(module);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
	struct module_state *state = PyModule_GetState(module);

	Py_VISIT(state->failure);
	return 0;
}

static int module_clear(PyObject *module)
{
	struct module_state *state = PyModule_GetState(module);

	Py_CLEAR(state->failure);
	return 0;
}

static void module_free(void *module)
{
	module_clear(module);
}

/* Slots of CPython 3.12, which 3.11 does not know and would refuse. */
#define SLOT_MULTIPLE_INTERPRETERS 3
#define PER_INTERPRETER_GIL_SUPPORTED ((void *)2)
#define VERSION_3_12 0x030c0000

static PyModuleDef_Slot slots[] = {
	{Py_mod_exec, (void *)(uintptr_t)module_exec},
	{0, NULL}, /* set in PyInit__core() */
	{0, NULL},
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "usernsproc._core",
	.m_doc = "The C core: clone, maps, namespaces, mounts.",
	.m_size = sizeof(struct module_state),
	.m_methods = methods,
	.m_slots = slots,
	.m_traverse = module_traverse,
	.m_clear = module_clear,
	.m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
	if (Py_Version >= VERSION_3_12)
		slots[1] = (PyModuleDef_Slot){SLOT_MULTIPLE_INTERPRETERS, PER_INTERPRETER_GIL_SUPPORTED};
	return PyModuleDef_Init(&definition);
}

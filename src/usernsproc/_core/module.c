/* The Python side of the core: converts arguments, lets go of the GIL, calls,
 * and raises Failure(step, errno). Wording and policy are in Python.
 *
 * Limited API of CPython 3.11.
 */
#include "module.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "reaper.h"

#define STEP_NAME(name) #name,
static const char *const step_names[] = {STEPS(STEP_NAME)};
#undef STEP_NAME

static PyObject *raise_failure(PyObject *module, const struct failure *failure)
{
	struct module_state *state = PyModule_GetState(module);
	PyObject *step = failure->step < STEP_COUNT ? PyUnicode_FromString(step_names[failure->step])
						    : PyLong_FromLong(failure->step - STEP_COUNT);
	PyObject *arguments;

	if (failure->has_ended && failure->error == ESRCH)
		arguments = Py_BuildValue("(Nii)", step, (int)failure->error, (int)failure->returncode);
	else
		arguments = Py_BuildValue("(NiO)", step, (int)failure->error, Py_None);
	if (arguments) {
		PyErr_SetObject(failure->gave_up ? state->gave_up : state->failure, arguments);
		Py_DECREF(arguments);
	}
	return NULL;
}

/* ---- functions ---- */

struct call {
	PyObject *module;
	PyObject *hook;	 /* a callable or NULL */
	PyObject *child; /* that it gets */
	PyThreadState *thread;
};

static int run_signal_handlers(void *context)
{
	struct call *call = context;
	int result;

	PyEval_RestoreThread(call->thread);
	result = PyErr_CheckSignals();
	call->thread = PyEval_SaveThread();
	return result;
}

/* With a pidfd of its own: what is done with that, even closing it, must not disturb the core. */
static PyObject *child_for_hook(struct call *call, pid_t pid, int pidfd)
{
	int copy = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
	struct failure failure;

	if (copy >= 0)
		return call->child = own_child(call->module, pid, copy);
	fail(&failure, STEP_on_created, errno);
	return raise_failure(call->module, &failure);
}

static int call_hook(void *context, pid_t pid, int pidfd)
{
	struct call *call = context;
	PyObject *result = NULL;

	PyEval_RestoreThread(call->thread);
	if (child_for_hook(call, pid, pidfd))
		result = PyObject_CallFunctionObjArgs(call->hook, call->child, NULL);
	Py_XDECREF(result);
	call->thread = PyEval_SaveThread();
	return result ? 0 : -1;
}

static int warn_of_image_on_disk(void)
{
	return PyErr_WarnEx(PyExc_RuntimeWarning,
			    "programs may not be executed from memory here (vm.memfd_noexec=2); "
			    "an unlinked file in a temporary directory was used",
			    2);
}

/* There is no object that could own them. */
static void give_up_spawned(const struct spawned *spawned)
{
	close_if_open(spawned->ending);
	if (spawned->reaper)
		end_reaper(spawned->reaper);
}

/* A signal handler may raise as soon as we return, before any bytecode could store a number:
 * an object ends the child then. */
static PyObject *spawn_plan(struct call *call, struct plan *plan)
{
	struct spawned spawned;
	struct failure failure;
	int result;

	if (call->hook)
		plan->hook = (struct hook){call_hook, call};
	plan->patience.run_signal_handlers = run_signal_handlers;
	plan->patience.context = call;
	call->thread = PyEval_SaveThread();
	result = spawn(plan, &spawned, &failure);
	PyEval_RestoreThread(call->thread);
	if (result < 0) {
		if (call->child)
			forget_child(call->child);
		return PyErr_Occurred() ? NULL : raise_failure(call->module, &failure);
	}
	if (call->child)
		close(spawned.pidfd);
	else
		call->child = own_child(call->module, spawned.pid, spawned.pidfd);
	if (call->child)
		give_to_child(call->child, &spawned);
	else
		give_up_spawned(&spawned);
	return call->child && !(spawned.image_on_disk && warn_of_image_on_disk() < 0) ? Py_NewRef(call->child) : NULL;
}

PyDoc_STRVAR(spawn_doc, "spawn(namespaces, maps, program, files, setup, signals, patience, cgroup, hook) -> Child\n\n"
			"Start a program, None: a holder. hook(child) is called while the child exists and is\n"
			"mapped, and has not yet run the program. See _spawn.py.");

static PyObject *core_spawn(PyObject *module, PyObject *arguments)
{
	struct call call = {.module = module};
	PyObject *hook, *result = NULL;
	struct plan plan;

	if (PyTuple_Size(arguments) != GROUPS_OF_VALUES + 1) {
		PyErr_SetString(PyExc_TypeError, "spawn() takes 9 arguments");
		return NULL;
	}
	hook = PyTuple_GetItem(arguments, GROUPS_OF_VALUES);
	call.hook = hook == Py_None ? NULL : hook;
	if (get_plan(arguments, &plan) == 0)
		result = spawn_plan(&call, &plan);
	Py_XDECREF(call.child);
	free_plan(&plan);
	return result;
}

PyDoc_STRVAR(become_doc, "become(namespaces, maps, program, files, setup, signals, patience, cgroup, messages, monitors,\n"
			 "enters_own_userns, time_limit, kill_after)\n\n"
			 "The calling process becomes the program, or with monitors what waits for it. See become.h.");

static PyObject *core_become(PyObject *module, PyObject *arguments)
{
	struct becoming becoming;
	struct failure failure;
	struct plan plan;
	Py_ssize_t size;
	char *messages;

	if (PyTuple_Size(arguments) != GROUPS_OF_VALUES + 5) {
		PyErr_SetString(PyExc_TypeError, "become() takes 13 arguments");
		return NULL;
	}
	if (PyBytes_AsStringAndSize(PyTuple_GetItem(arguments, GROUPS_OF_VALUES), &messages, &size) < 0)
		return NULL;
	becoming.messages = messages;
	becoming.messages_size = (size_t)size + 1;
	becoming.monitors = PyObject_IsTrue(PyTuple_GetItem(arguments, GROUPS_OF_VALUES + 1));
	becoming.enters_own_userns = PyObject_IsTrue(PyTuple_GetItem(arguments, GROUPS_OF_VALUES + 2));
	for (int i = 0; i < 2; i++)
		becoming.limits[i] = PyLong_AsLongLong(PyTuple_GetItem(arguments, GROUPS_OF_VALUES + 3 + i));
	if (PyErr_Occurred())
		return NULL;
	if (get_plan(arguments, &plan) == 0) {
		Py_BEGIN_ALLOW_THREADS
		become(&plan, &becoming, &failure);
		Py_END_ALLOW_THREADS
		raise_failure(module, &failure);
	}
	free_plan(&plan);
	return NULL;
}

PyDoc_STRVAR(create_userns_doc, "create_userns(setgroups, uid_map, gid_map) -> OwnedFd\n\n"
				"A user namespace with these maps (None: unwritten).");

static PyObject *core_create_userns(PyObject *module, PyObject *arguments)
{
	struct maps maps;
	struct failure failure;
	int userns;

	if (!PyArg_ParseTuple(arguments, "zzz:create_userns", &maps.setgroups, &maps.uid_map, &maps.gid_map))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	userns = create_userns(&maps, &failure);
	Py_END_ALLOW_THREADS
	return userns < 0 ? raise_failure(module, &failure) : own_fd(module, userns);
}

PyDoc_STRVAR(exit_status_doc, "exit_status(pidfd) -> int\n\n"
			      "The wait status of a process that another part of the program has reaped, by\n"
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

PyDoc_STRVAR(attempt_doc, "attempt(function, *args) -> object\n\n"
			  "The result of a function that is written in C, or the OSError that it raised.\n"
			  "In an except clause, the OSError could be that of a signal handler.");

static PyObject *core_attempt(PyObject *module, PyObject *arguments)
{
	PyObject *function, *rest, *result, *type, *error, *traceback;

	(void)module;
	function = PyTuple_GetItem(arguments, 0);
	rest = function ? PyTuple_GetSlice(arguments, 1, PyTuple_Size(arguments)) : NULL;
	if (!rest)
		return NULL;
	result = PyObject_CallObject(function, rest);
	Py_DECREF(rest);
	if (result || !PyErr_ExceptionMatches(PyExc_OSError))
		return result;
	PyErr_Fetch(&type, &error, &traceback);
	PyErr_NormalizeException(&type, &error, &traceback);
	Py_XDECREF(type);
	Py_XDECREF(traceback);
	return error;
}

PyDoc_STRVAR(generation_doc, "generation() -> int\n\n"
			     "A number that differs between a program and a forked copy of it,\n"
			     "also when Python did not see the fork.");

static PyObject *core_generation(PyObject *module, PyObject *ignored)
{
	(void)module;
	(void)ignored;
	return PyLong_FromUnsignedLongLong(generation());
}

/* ---- the module ---- */

static PyMethodDef methods[] = {
	{"spawn", core_spawn, METH_VARARGS, spawn_doc},
	{"become", core_become, METH_VARARGS, become_doc},
	{"create_userns", core_create_userns, METH_VARARGS, create_userns_doc},
	{"exit_status", core_exit_status, METH_VARARGS, exit_status_doc},
	{"attempt", core_attempt, METH_VARARGS, attempt_doc},
	{"generation", core_generation, METH_NOARGS, generation_doc},
	{NULL, NULL, 0, NULL},
};

/* By name, all that the headers of the kernel have; the list is made when the core is built. */
static PyObject *system_call_numbers(void)
{
#define SYSTEM_CALL(name) {#name, __NR_##name},
	static const struct {
		const char *name;
		int number;
	} known[] = {
#include "system_calls.h"
	};
#undef SYSTEM_CALL
	PyObject *numbers = PyDict_New();

	for (size_t i = 0; numbers && i < sizeof(known) / sizeof(known[0]); i++) {
		PyObject *number = PyLong_FromLong(known[i].number);

		if (!number || PyDict_SetItemString(numbers, known[i].name, number) < 0)
			Py_CLEAR(numbers);
		Py_XDECREF(number);
	}
	return numbers;
}

/* In the order of their numbers. */
static PyObject *names_of_steps(void)
{
#define STEP_NAME(name) #name " "
	return PyUnicode_FromString(STEPS(STEP_NAME));
}

/* The encoding of ioctl numbers, and those of system calls, differ between architectures. */
static int add_object(PyObject *module, const char *name, PyObject *value)
{
	int result = value ? PyModule_AddObjectRef(module, name, value) : -1;

	Py_XDECREF(value);
	return result;
}

static int add_constants(PyObject *module)
{
	if (add_object(module, "NR", system_call_numbers()) < 0 || add_object(module, "STEPS", names_of_steps()) < 0)
		return -1;
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

	if (set_up_generation() < 0) {
		PyErr_NoMemory();
		return -1;
	}
	open_shared_image();
	state->failure = PyErr_NewExceptionWithDoc("usernsproc._core.Failure", "(step, errno, returncode)", NULL, NULL);
	if (!state->failure || PyModule_AddObjectRef(module, "Failure", state->failure) < 0)
		return -1;
	state->gave_up = PyErr_NewExceptionWithDoc("usernsproc._core.GaveUp", "(step, errno, None)", NULL, NULL);
	if (!state->gave_up || PyModule_AddObjectRef(module, "GaveUp", state->gave_up) < 0)
		return -1;
	if (add_owned_fd(module) < 0 || add_child(module) < 0 || add_constants(module) < 0 ||
	    add_proc_calls(module) < 0)
		return -1;
	return add_system_calls(module);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
	struct module_state *state = PyModule_GetState(module);

	Py_VISIT(state->failure);
	Py_VISIT(state->gave_up);
	Py_VISIT(state->owned_fd);
	Py_VISIT(state->child);
	return 0;
}

static int module_clear(PyObject *module)
{
	struct module_state *state = PyModule_GetState(module);

	Py_CLEAR(state->failure);
	Py_CLEAR(state->gave_up);
	Py_CLEAR(state->owned_fd);
	Py_CLEAR(state->child);
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

/* A child that is killed and reaped when nothing refers to it any more, unless it was taken.
 *
 * As with a descriptor (fd.c): a signal handler may raise after any call, before its result is stored. To set an
 * attribute is not a call. In a forked copy of the program the child is a sibling, and only the pidfd is closed.
 */
#include "module.h"

#include <stddef.h>
#include <structmember.h>
#include <unistd.h>

#include "reaper.h"

struct owned_child {
	PyObject_HEAD
	int pid, pidfd; /* -1: it has ended, or other code closes the pidfd */
	int ending;
	char taken;
	struct reaper *reaper; /* or NULL */
	uint64_t generation;
};

static void end(struct owned_child *owned)
{
	struct reaper *reaper = owned->reaper;
	int pidfd = owned->pidfd;

	owned->pidfd = -1;
	owned->reaper = NULL;
	if (owned->taken || owned->generation != generation()) {
		close_if_open(pidfd);
		return;
	}
	Py_BEGIN_ALLOW_THREADS
	if (pidfd >= 0)
		end_child(owned->pid, pidfd, NULL);
	if (reaper)
		end_reaper(reaper);
	Py_END_ALLOW_THREADS
}

static void deallocate(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	end((struct owned_child *)object);
	close_if_open(((struct owned_child *)object)->ending);
	release(object);
	Py_DECREF(type);
}

static PyObject *method_enter(PyObject *self, PyObject *ignored)
{
	(void)ignored;
	return Py_NewRef(self);
}

static PyObject *method_exit(PyObject *self, PyObject *ignored)
{
	struct owned_child *owned = (struct owned_child *)self;

	(void)ignored;
	if (!owned->taken)
		end(owned);
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{"__enter__", method_enter, METH_NOARGS, NULL},
	{"__exit__", method_exit, METH_VARARGS, "Kill and reap it, unless it was taken. One that does not end within a\n"
						 "second is reaped later, by a thread."},
	{NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
	{"pid", T_INT, offsetof(struct owned_child, pid), READONLY, NULL},
	{"pidfd", T_INT, offsetof(struct owned_child, pidfd), 0, "-1: it is not this object's any more."},
	{"ending", T_INT, offsetof(struct owned_child, ending), 0,
	 "The socket on which an init reports how the command ended, see ending(). -1: there is none."},
	{"taken", T_BOOL, offsetof(struct owned_child, taken), 0, "Set it to leave the child alive; the pidfd is closed."},
	{NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
	{Py_tp_dealloc, (void *)(uintptr_t)deallocate},
	{Py_tp_methods, methods},
	{Py_tp_members, members},
	{Py_tp_doc, "A child that is killed and reaped when nothing refers to it any more, unless it was taken."},
	{0, NULL},
};

static PyType_Spec spec = {
	"usernsproc._core.Child",
	sizeof(struct owned_child),
	0,
	Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	slots,
};

PyObject *own_child(PyObject *module, pid_t pid, int pidfd)
{
	struct module_state *state = PyModule_GetState(module);
	allocfunc allocate = (allocfunc)PyType_GetSlot((PyTypeObject *)state->child, Py_tp_alloc);
	struct owned_child *owned = (struct owned_child *)allocate((PyTypeObject *)state->child, 0);

	if (!owned) {
		end_child(pid, pidfd, NULL);
		return NULL;
	}
	owned->pid = (int)pid;
	owned->pidfd = pidfd;
	owned->ending = -1;
	owned->reaper = NULL;
	owned->generation = generation();
	return (PyObject *)owned;
}

void give_to_child(PyObject *object, const struct spawned *spawned)
{
	struct owned_child *owned = (struct owned_child *)object;

	owned->ending = spawned->ending;
	owned->reaper = spawned->reaper;
}

void forget_child(PyObject *object)
{
	struct owned_child *owned = (struct owned_child *)object;

	owned->taken = 1;
	end(owned);
}

int add_child(PyObject *module)
{
	struct module_state *state = PyModule_GetState(module);

	state->child = PyType_FromModuleAndSpec(module, &spec, NULL);
	return state->child ? PyModule_AddObjectRef(module, "Child", state->child) : -1;
}

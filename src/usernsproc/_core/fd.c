/* A descriptor that is closed when nothing refers to it any more.
 *
 * A signal handler may raise after any call of Python code, before its result is stored.
 * A plain number would then be lost, and the descriptor stay open.
 *
 * An exception keeps the local variables of the functions that it went through. So what is open in
 * a function that may raise is closed by a `with` block, which also gives the number.
 */
#include "module.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "rawsys.h"

struct owned_fd {
	PyObject_HEAD
	int fd; /* -1: closed, or taken */
};

static int take(PyObject *object)
{
	struct owned_fd *owned = (struct owned_fd *)object;
	int fd = owned->fd;

	owned->fd = -1;
	return fd;
}

static void close_owned(PyObject *object)
{
	int fd = take(object);

	if (fd >= 0)
		close(fd);
}

static void deallocate(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	close_owned(object);
	release(object);
	Py_DECREF(type);
}

static PyObject *number_of(PyObject *object)
{
	int fd = ((struct owned_fd *)object)->fd;

	if (fd < 0) {
		PyErr_SetString(PyExc_ValueError, "the descriptor is closed");
		return NULL;
	}
	return PyLong_FromLong(fd);
}

static PyObject *method_fileno(PyObject *self, PyObject *ignored)
{
	(void)ignored;
	return number_of(self);
}

static PyObject *method_take(PyObject *self, PyObject *ignored)
{
	PyObject *number = number_of(self);

	(void)ignored;
	if (number)
		take(self);
	return number;
}

static PyObject *method_move(PyObject *self, PyObject *ignored)
{
	PyTypeObject *type = Py_TYPE(self);
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	PyObject *owned = allocate(type, 0);

	(void)ignored;
	if (owned)
		((struct owned_fd *)owned)->fd = take(self);
	return owned;
}

static PyObject *method_close(PyObject *self, PyObject *ignored)
{
	(void)ignored;
	close_owned(self);
	Py_RETURN_NONE;
}

static PyObject *get_closed(PyObject *self, void *ignored)
{
	(void)ignored;
	return PyBool_FromLong(((struct owned_fd *)self)->fd < 0);
}

static PyMethodDef methods[] = {
	{"fileno", method_fileno, METH_NOARGS, "The number; it stays this object's."},
	{"take", method_take, METH_NOARGS, "The number, which is the caller's to close from now on."},
	{"move", method_move, METH_NOARGS,
	 "Another object that owns the descriptor in place of this one: to return it from a block that closes this one."},
	{"close", method_close, METH_NOARGS, "Calling it again has no effect."},
	{"__enter__", method_fileno, METH_NOARGS, "The number; leaving the block closes it."},
	{"__exit__", method_close, METH_VARARGS, NULL},
	{NULL, NULL, 0, NULL},
};

static PyGetSetDef members[] = {
	{"closed", get_closed, NULL, "Whether it was closed or taken.", NULL},
	{NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(owned_fd_doc, "A descriptor that is closed when nothing refers to it any more. System calls take it as its number.");

static PyType_Slot slots[] = {
	{Py_tp_dealloc, (void *)(uintptr_t)deallocate},
	{Py_tp_methods, methods},
	{Py_tp_getset, members},
	{Py_tp_doc, (void *)(uintptr_t)owned_fd_doc},
	{Py_nb_index, (void *)(uintptr_t)number_of},
	{0, NULL},
};

static PyType_Spec spec = {
	"usernsproc._core.OwnedFd",
	sizeof(struct owned_fd),
	0,
	Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	slots,
};

PyObject *own_fd(PyObject *module, int fd)
{
	struct module_state *state = PyModule_GetState(module);
	allocfunc allocate = (allocfunc)PyType_GetSlot((PyTypeObject *)state->owned_fd, Py_tp_alloc);
	PyObject *owned = allocate((PyTypeObject *)state->owned_fd, 0);

	if (owned)
		((struct owned_fd *)owned)->fd = fd;
	else
		close(fd);
	return owned;
}

PyObject *fd_or_error(PyObject *module, long fd)
{
	if (fd >= 0)
		return own_fd(module, (int)fd);
	errno = (int)-fd;
	return PyErr_SetFromErrno(PyExc_OSError);
}

/* ---- what gives one ---- */

PyDoc_STRVAR(own_doc, "own(fd) -> OwnedFd\n\nTake over a descriptor.");

static PyObject *core_own(PyObject *module, PyObject *arguments)
{
	int fd;

	return PyArg_ParseTuple(arguments, "i:own", &fd) ? own_fd(module, fd) : NULL;
}

PyDoc_STRVAR(open_doc, "open(path, flags, mode=0, dir_fd=AT_FDCWD) -> OwnedFd\n\nopenat(2); close-on-exec.");

static PyObject *core_open(PyObject *module, PyObject *arguments)
{
	int flags, directory = AT_FDCWD;
	unsigned mode = 0;
	PyObject *path, *encoded;
	long fd;

	if (!PyArg_ParseTuple(arguments, "Oi|Ii:open", &path, &flags, &mode, &directory) ||
	    !PyUnicode_FSConverter(path, &encoded))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	fd = RAW4(openat, directory, PyBytes_AsString(encoded), flags | O_CLOEXEC, mode);
	Py_END_ALLOW_THREADS
	Py_DECREF(encoded);
	if (fd >= 0)
		return own_fd(module, (int)fd);
	errno = (int)-fd;
	return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
}

PyDoc_STRVAR(dup_doc, "dup(fd, least=3) -> OwnedFd\n\nF_DUPFD_CLOEXEC of fcntl(2): the first free number from `least` on.");

static PyObject *core_dup(PyObject *module, PyObject *arguments)
{
	int fd, least = 3;

	if (!PyArg_ParseTuple(arguments, "i|i:dup", &fd, &least))
		return NULL;
	fd = fcntl(fd, F_DUPFD_CLOEXEC, least);
	return fd_or_error(module, fd < 0 ? -errno : fd);
}

PyDoc_STRVAR(pipe_doc, "pipe() -> tuple[OwnedFd, OwnedFd]\n\nA reader and a writer, by pipe2(2); close-on-exec.");

static PyObject *core_pipe(PyObject *module, PyObject *ignored)
{
	PyObject *reader, *writer;
	int ends[2];

	(void)ignored;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	reader = own_fd(module, ends[0]);
	writer = own_fd(module, ends[1]);
	return Py_BuildValue("(NN)", reader, writer);
}

static PyMethodDef functions[] = {
	{"own", core_own, METH_VARARGS, own_doc},
	{"open", core_open, METH_VARARGS, open_doc},
	{"dup", core_dup, METH_VARARGS, dup_doc},
	{"pipe", core_pipe, METH_NOARGS, pipe_doc},
	{NULL, NULL, 0, NULL},
};

int add_owned_fd(PyObject *module)
{
	struct module_state *state = PyModule_GetState(module);

	state->owned_fd = PyType_FromModuleAndSpec(module, &spec, NULL);
	if (!state->owned_fd || PyModule_AddObjectRef(module, "OwnedFd", state->owned_fd) < 0)
		return -1;
	return PyModule_AddFunctions(module, functions);
}

/* System calls for Python, which packs their structures: an OSError with the errno. */
#include "module.h"

#include <errno.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "compat.h"

enum { WORDS = 7 }; /* the number of the call, and up to six arguments */

/* A number, a string that ends with its first NUL (bytes), or memory (a bytearray). */
static int get_word(PyObject *argument, long *word)
{
	PyObject *number;
	char *bytes;

	if (PyByteArray_Check(argument)) {
		*word = (long)PyByteArray_AsString(argument);
		return 0;
	}
	if (PyBytes_Check(argument)) {
		if (PyBytes_AsStringAndSize(argument, &bytes, NULL) < 0)
			return -1;
		*word = (long)bytes;
		return 0;
	}
	number = PyNumber_Index(argument);
	*word = number ? (long)PyLong_AsUnsignedLongMask(number) : -1;
	Py_XDECREF(number);
	return PyErr_Occurred() ? -1 : 0;
}

/* The result is a negative errno if the call fails; -1 with an exception: it was not made. */
static int make_call(PyObject *arguments, long *result)
{
	Py_ssize_t count = PyTuple_Size(arguments);
	long w[WORDS] = {0};

	if (count < 1 || count > WORDS) {
		PyErr_SetString(PyExc_TypeError, "a system call has a number and up to six arguments");
		return -1;
	}
	for (Py_ssize_t i = 0; i < count; i++) {
		if (get_word(PyTuple_GetItem(arguments, i), &w[i]) < 0)
			return -1;
	}
	Py_BEGIN_ALLOW_THREADS
	*result = syscall(w[0], w[1], w[2], w[3], w[4], w[5], w[6]);
	*result = *result < 0 ? -errno : *result;
	Py_END_ALLOW_THREADS
	return 0;
}

PyDoc_STRVAR(call_doc, "call(number, *args) -> int\n\n"
		       "syscall(2): numbers, paths as bytes, structures and buffers as a bytearray.");

static PyObject *core_call(PyObject *module, PyObject *arguments)
{
	long result;

	(void)module;
	if (make_call(arguments, &result) < 0)
		return NULL;
	if (result >= 0)
		return PyLong_FromLong(result);
	errno = (int)-result;
	return PyErr_SetFromErrno(PyExc_OSError);
}

PyDoc_STRVAR(call_for_fd_doc, "call_for_fd(number, *args) -> OwnedFd\n\n"
			      "The same, for a system call that opens a descriptor.");

static PyObject *core_call_for_fd(PyObject *module, PyObject *arguments)
{
	long result;

	return make_call(arguments, &result) < 0 ? NULL : fd_or_error(module, result);
}

PyDoc_STRVAR(file_system_type_doc, "file_system_type(fd) -> int\n\nf_type of fstatfs(2).");

static PyObject *core_file_system_type(PyObject *module, PyObject *arguments)
{
	struct statfs answer;
	int fd, result;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "i:file_system_type", &fd))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	result = fstatfs(fd, &answer);
	Py_END_ALLOW_THREADS
	if (result < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	return PyLong_FromUnsignedLongLong((unsigned long long)answer.f_type);
}

PyDoc_STRVAR(reap_doc, "reap(pidfd, options) -> (si_code, si_status) or None\n\nwaitid(2) for the end of a child. One that "
		       "SIGKILL has ended is still to be reaped: until then /proc shows what it has used.");

static int is_to_be_looked_at(const siginfo_t *info)
{
	return info->si_code == CLD_KILLED && info->si_status == SIGKILL;
}

static PyObject *core_reap(PyObject *module, PyObject *arguments)
{
	siginfo_t info;
	int pidfd, options, result;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "ii:reap", &pidfd, &options))
		return NULL;
	do {
		Py_BEGIN_ALLOW_THREADS
		info.si_pid = 0;
		result = waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOWAIT | __WALL | options);
		if (result == 0 && info.si_pid && !is_to_be_looked_at(&info))
			waitid(P_PIDFD, (id_t)pidfd, NULL, WEXITED | WNOHANG | __WALL); /* unless other code was faster */
		Py_END_ALLOW_THREADS
	} while (result < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
	if (PyErr_Occurred())
		return NULL;
	if (result < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	if (!info.si_pid)
		Py_RETURN_NONE;
	return Py_BuildValue("ii", info.si_code, info.si_status);
}

static PyMethodDef system_calls[] = {
	{"call", core_call, METH_VARARGS, call_doc},
	{"call_for_fd", core_call_for_fd, METH_VARARGS, call_for_fd_doc},
	{"reap", core_reap, METH_VARARGS, reap_doc},
	{"file_system_type", core_file_system_type, METH_VARARGS, file_system_type_doc},
	{NULL, NULL, 0, NULL},
};

int add_system_calls(PyObject *module)
{
	return PyModule_AddFunctions(module, system_calls);
}

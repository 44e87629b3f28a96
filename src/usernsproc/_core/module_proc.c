/* Files of a proven /proc, and the caller as the kernel knows it. See proven_proc.h. */
#include "module.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inline.h"
#include "proven_proc.h"

/* A function that opens something, and releases the GIL for that. */
#define OPENS(name, format, call, ...)                                             \
	static PyObject *core_##name(PyObject *module, PyObject *arguments)        \
	{                                                                          \
		__attribute__((unused)) const char *path;                          \
		__attribute__((unused)) int from, flags;                           \
		int fd;                                                            \
                                                                                   \
		if (!PyArg_ParseTuple(arguments, format ":" #name, __VA_ARGS__))   \
			return NULL;                                               \
		Py_BEGIN_ALLOW_THREADS                                             \
		fd = call;                                                         \
		Py_END_ALLOW_THREADS                                               \
		return fd_or_error(module, fd);                                    \
	}

PyDoc_STRVAR(open_proc_doc, "open_proc(path, flags) -> OwnedFd\n\n"
			    "A file of /proc, by its path there. ENOENT: also where there is no /proc;\n"
			    "EXDEV: it is not a procfs, or something is mounted over the file.");

OPENS(open_proc, "si", open_proc(path, flags), &path, &flags)

PyDoc_STRVAR(open_proc_dir_doc, "open_proc_dir(pidfd) -> OwnedFd\n\n"
				"/proc/PID of a process. It is that of another one if the process has been\n"
				"reaped meanwhile.");

OPENS(open_proc_dir, "i", open_proc_dir_of(from), &from)

PyDoc_STRVAR(open_in_doc, "open_in(directory, path, flags) -> OwnedFd\n\n"
			  "A file beneath a directory, on the same mount (EXDEV).");

OPENS(open_in, "isi", open_in(from, path, flags), &from, &path, &flags)

PyDoc_STRVAR(reopen_doc, "reopen(fd, flags) -> OwnedFd\n\nAn O_PATH descriptor once more, for reading.");

OPENS(reopen, "ii", reopen(from, flags), &from, &flags)

PyDoc_STRVAR(open_namespace_link_doc, "open_namespace_link(directory, path) -> OwnedFd\n\n"
				      "The namespace at a link in a directory of /proc; -1: in /proc.");

OPENS(open_namespace_link, "is", open_namespace_link(from, path), &from, &path)

PyDoc_STRVAR(namespace_of_doc, "namespace_of(pidfd, name) -> OwnedFd\n\n"
			       "PIDFD_GET_..._NAMESPACE, Linux 6.11: without /proc.");

OPENS(namespace_of, "is", open_namespace_by_pidfd(from, path), &from, &path)

PyDoc_STRVAR(own_namespace_doc, "own_namespace(name) -> OwnedFd\n\n"
				"A namespace of the calling thread; without /proc from Linux 6.11 on.");

OPENS(own_namespace, "s", open_own_namespace(path), &path)

/* A descriptor, or a negative errno. */
static int find_own_namespace(const char *name, struct stat *status)
{
	int fd = open_own_namespace(name), error;

	if (fd < 0 || fstat(fd, status) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

/* ---- the caller ---- */

/* To open a namespace takes the kernel half of the time while it is open elsewhere. The initial user namespace
 * never ends, so that a descriptor of it, which nothing uses, keeps nothing alive. */
static void keep_or_close(int initial)
{
	static int is_kept;

	if (__atomic_exchange_n(&is_kept, 1, __ATOMIC_RELAXED))
		close(initial);
	else
		above_stdio(initial);
}

/* The initial user namespace has a fixed number (PROC_USER_INIT_INO). All threads of a
 * process share one user namespace. -1: errno is set. */
static int in_initial_userns(void)
{
	struct stat status;
	int fd = find_own_namespace("user", &status);

	if (fd < 0) {
		errno = -fd;
		return fd == -ENOENT ? 1 : -1; /* no /proc, or a kernel without user namespaces */
	}
	if (status.st_ino == 4026531837u) {
		keep_or_close(fd);
		return 1;
	}
	close(fd);
	return 0;
}

/* The supplementary ones, in the kernel's order. */
static PyObject *own_groups(void)
{
	int count = getgroups(0, NULL);
	gid_t *groups = count > 0 ? PyMem_Calloc((size_t)count, sizeof(*groups)) : NULL;
	PyObject *tuple = NULL;

	if (count > 0 && !groups)
		return PyErr_NoMemory();
	if (count > 0)
		count = getgroups(count, groups);
	if (count < 0)
		PyErr_SetFromErrno(PyExc_OSError);
	else
		tuple = PyTuple_New(count);
	for (int i = 0; tuple && i < count; i++) {
		PyObject *group = PyLong_FromUnsignedLong(groups[i]);

		if (!group || PyTuple_SetItem(tuple, i, group) < 0)
			Py_CLEAR(tuple);
	}
	PyMem_Free(groups);
	return tuple;
}

PyDoc_STRVAR(caller_doc, "caller() -> (uid, gid, capabilities, in_initial_userns, groups, real_uid, real_gid)\n\n"
			 "Effective IDs and capabilities of the calling thread; whether its user\n"
			 "namespace is the initial one; its supplementary groups; its real IDs.\n"
			 "Keeps the GIL: a few system calls that cannot block.");

static PyObject *core_caller(PyObject *module, PyObject *ignored)
{
	struct capabilities own;
	unsigned long long effective = 0;
	int initial = in_initial_userns();

	(void)module;
	(void)ignored;
	if (initial < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	if (get_capabilities(&own) == 0)
		effective = (unsigned long long)own.high.effective << 32 | own.low.effective;
	return Py_BuildValue("(kkKiNkk)", (unsigned long)geteuid(), (unsigned long)getegid(), effective, initial,
			     own_groups(), (unsigned long)getuid(), (unsigned long)getgid());
}

static PyMethodDef proc_calls[] = {
	{"open_proc", core_open_proc, METH_VARARGS, open_proc_doc},
	{"open_proc_dir", core_open_proc_dir, METH_VARARGS, open_proc_dir_doc},
	{"open_in", core_open_in, METH_VARARGS, open_in_doc},
	{"reopen", core_reopen, METH_VARARGS, reopen_doc},
	{"open_namespace_link", core_open_namespace_link, METH_VARARGS, open_namespace_link_doc},
	{"namespace_of", core_namespace_of, METH_VARARGS, namespace_of_doc},
	{"own_namespace", core_own_namespace, METH_VARARGS, own_namespace_doc},
	{"caller", core_caller, METH_NOARGS, caller_doc},
	{NULL, NULL, 0, NULL},
};

int add_proc_calls(PyObject *module)
{
	return PyModule_AddFunctions(module, proc_calls);
}

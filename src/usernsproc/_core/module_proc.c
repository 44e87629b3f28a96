/* Files of a proven /proc, and the caller as the kernel knows it. See proven_proc.h. */
#include "module.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inline.h"
#include "proven_proc.h"

/* Grows for longer files; a page is enough for most, and for a map of many ranges twice that. */
#define FIRST_SIZE 0x1000

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

PyDoc_STRVAR(read_link_doc, "read_link(directory, path) -> bytes\n\n"
			    "The text of a link in a directory of /proc; -1: in /proc.");

static PyObject *core_read_link(PyObject *module, PyObject *arguments)
{
	char text[4096];
	const char *path;
	ssize_t length;
	int directory;

	if (!PyArg_ParseTuple(arguments, "is:read_link", &directory, &path))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	length = read_link_in(directory, path, text, sizeof(text));
	Py_END_ALLOW_THREADS
	return length < 0 ? fd_or_error(module, length) : PyBytes_FromStringAndSize(text, length);
}

/* All that is in the file: NULL with errno; a file of /proc does not show its size. */
static char *read_whole(int fd, size_t *length)
{
	size_t size = FIRST_SIZE;
	char *text = NULL, *more;
	ssize_t part = 1;

	for (*length = 0; part > 0; size *= 2) {
		more = realloc(text, size);
		if (!more)
			break;
		text = more;
		while (*length < size && (part = read(fd, text + *length, size - *length)) > 0)
			*length += (size_t)part;
	}
	if (part == 0)
		return text;
	free(text);
	return NULL;
}

PyDoc_STRVAR(read_file_doc, "read_file(directory, path) -> bytes\n\n"
			    "All of a file in a directory of /proc; -1: in /proc. No descriptor that an\n"
			    "exception of a signal handler could lose.");

static PyObject *core_read_file(PyObject *module, PyObject *arguments)
{
	int directory, fd, error = 0;
	size_t length = 0;
	char *text = NULL;
	const char *path;
	PyObject *bytes;

	if (!PyArg_ParseTuple(arguments, "is:read_file", &directory, &path))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	fd = directory < 0 ? open_proc(path, O_RDONLY) : open_in(directory, path, O_RDONLY);
	if (fd >= 0) {
		text = read_whole(fd, &length);
		error = errno;
		close(fd);
	}
	Py_END_ALLOW_THREADS
	if (!text)
		return fd_or_error(module, fd < 0 ? fd : -error);
	bytes = PyBytes_FromStringAndSize(text, (Py_ssize_t)length);
	free(text);
	return bytes;
}

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

PyDoc_STRVAR(own_namespace_identity_doc, "own_namespace_identity(name) -> (device, inode)");

static PyObject *core_own_namespace_identity(PyObject *module, PyObject *arguments)
{
	struct stat status;
	const char *name;
	int fd;

	if (!PyArg_ParseTuple(arguments, "s:own_namespace_identity", &name))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	fd = find_own_namespace(name, &status);
	close_if_open(fd);
	Py_END_ALLOW_THREADS
	if (fd < 0)
		return fd_or_error(module, fd);
	return Py_BuildValue("KK", (unsigned long long)status.st_dev, (unsigned long long)status.st_ino);
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

/* Without a /proc the map is not known: what needs it fails at its own step. */
static PyObject *own_map(PyObject *module, const char *path)
{
	int fd = open_proc(path, O_RDONLY), error;
	PyObject *map = NULL;
	size_t length;
	char *text;

	if (fd == -ENOENT)
		return Py_NewRef(Py_None);
	if (fd < 0)
		return fd_or_error(module, fd);
	text = read_whole(fd, &length);
	error = errno;
	close(fd);
	if (!text)
		return fd_or_error(module, -error);
	map = PyUnicode_FromStringAndSize(text, (Py_ssize_t)length);
	free(text);
	return map;
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

PyDoc_STRVAR(caller_doc, "caller() -> (uid, gid, capabilities, uid_map, gid_map, groups, real_uid, real_gid)\n\n"
			 "Effective ids and capabilities of the calling thread; the texts of the\n"
			 "maps of its user namespace, None in the initial one; its supplementary\n"
			 "groups; its real ids. Keeps the GIL: a few system calls that cannot block.");

static PyObject *core_caller(PyObject *module, PyObject *ignored)
{
	struct capabilities own;
	unsigned long long effective = 0;
	PyObject *uid_map, *gid_map;
	int initial = in_initial_userns();

	(void)ignored;
	if (initial < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	if (get_capabilities(&own) == 0)
		effective = (unsigned long long)own.high.effective << 32 | own.low.effective;
	uid_map = initial ? Py_NewRef(Py_None) : own_map(module, "self/uid_map");
	gid_map = !uid_map ? NULL : initial ? Py_NewRef(Py_None) : own_map(module, "self/gid_map");
	if (!gid_map) {
		Py_XDECREF(uid_map);
		return NULL;
	}
	return Py_BuildValue("(kkKNNNkk)", (unsigned long)geteuid(), (unsigned long)getegid(), effective, uid_map,
			     gid_map, own_groups(), (unsigned long)getuid(), (unsigned long)getgid());
}

static PyMethodDef proc_calls[] = {
	{"open_proc", core_open_proc, METH_VARARGS, open_proc_doc},
	{"open_proc_dir", core_open_proc_dir, METH_VARARGS, open_proc_dir_doc},
	{"open_in", core_open_in, METH_VARARGS, open_in_doc},
	{"reopen", core_reopen, METH_VARARGS, reopen_doc},
	{"read_link", core_read_link, METH_VARARGS, read_link_doc},
	{"read_file", core_read_file, METH_VARARGS, read_file_doc},
	{"own_namespace_identity", core_own_namespace_identity, METH_VARARGS, own_namespace_identity_doc},
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

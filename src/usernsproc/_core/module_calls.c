/* Thin system calls, as in os: an OSError with the errno. */
#include "module.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "rawsys.h"

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

static PyMethodDef system_calls[] = {
	{"setns", core_setns, METH_VARARGS, setns_doc},
	{"open_tree", core_open_tree, METH_VARARGS, open_tree_doc},
	{"mount_setattr", core_mount_setattr, METH_VARARGS, mount_setattr_doc},
	{"move_mount", core_move_mount, METH_VARARGS, move_mount_doc},
	{"umount2", core_umount2, METH_VARARGS, umount2_doc},
	{NULL, NULL, 0, NULL},
};

int add_system_calls(PyObject *module)
{
	return PyModule_AddFunctions(module, system_calls);
}

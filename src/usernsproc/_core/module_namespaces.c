/* Namespaces by their number, which is never given out again (NS_GET_ID, Linux 6.18). */
#include "module.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* struct ns_id_req of Linux 6.19, its first size */
struct ns_id_req_v0 {
	uint32_t size, spare;
	uint64_t ns_id;
	uint32_t ns_type, spare2;
	uint64_t user_ns_id;
};

#define MANY 512

PyObject *list_of_numbers(const uint64_t *numbers, long count)
{
	PyObject *list = PyList_New(0);

	for (long i = 0; list && i < count; i++) {
		PyObject *number = PyLong_FromUnsignedLongLong(numbers[i]);

		if (!number || PyList_Append(list, number) < 0)
			Py_CLEAR(list);
		Py_XDECREF(number);
	}
	return list;
}

PyDoc_STRVAR(listns_doc, "listns(after) -> list\n\n"
			 "listns(2), Linux 6.19: the next numbers of namespaces after that one,\n"
			 "0 for the first; an empty list after the last.");

static PyObject *core_listns(PyObject *module, PyObject *arguments)
{
	struct ns_id_req_v0 request = {.size = sizeof(request)};
	uint64_t numbers[MANY];
	unsigned long long after;
	long count;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "K:listns", &after))
		return NULL;
	request.ns_id = after;
	Py_BEGIN_ALLOW_THREADS
	count = syscall(__NR_listns, &request, numbers, (size_t)MANY, 0);
	Py_END_ALLOW_THREADS
	return count < 0 ? PyErr_SetFromErrno(PyExc_OSError) : list_of_numbers(numbers, count);
}

/* struct file_handle with a struct nsfs_file_handle in it, Linux 6.18 */
struct ns_handle {
	uint32_t handle_bytes;
	int32_t handle_type;
	struct {
		uint64_t ns_id;
		uint32_t ns_type, ns_inum;
	} ns;
};

#define NSFS_ROOT (-10003)
#define HANDLE_OF_NSFS 0xf1

PyDoc_STRVAR(open_ns_doc, "open_ns(ns_id, nstype, inode) -> OwnedFd\n\n"
			  "open_by_handle_at(2) of a namespace, Linux 6.18; from 6.19 on, nstype and\n"
			  "inode may be 0.");

static PyObject *core_open_ns(PyObject *module, PyObject *arguments)
{
	struct ns_handle handle = {.handle_bytes = sizeof(handle.ns), .handle_type = HANDLE_OF_NSFS};
	unsigned long long ns_id;
	unsigned nstype, inode;
	long fd;

	if (!PyArg_ParseTuple(arguments, "KII:open_ns", &ns_id, &nstype, &inode))
		return NULL;
	handle.ns.ns_id = ns_id;
	handle.ns.ns_type = nstype;
	handle.ns.ns_inum = inode;
	Py_BEGIN_ALLOW_THREADS
	fd = syscall(__NR_open_by_handle_at, NSFS_ROOT, &handle, O_RDONLY | O_CLOEXEC);
	Py_END_ALLOW_THREADS
	return fd_or_error(module, fd < 0 ? -errno : fd);
}

static PyMethodDef namespace_calls[] = {
	{"listns", core_listns, METH_VARARGS, listns_doc},
	{"open_ns", core_open_ns, METH_VARARGS, open_ns_doc},
	{NULL, NULL, 0, NULL},
};

int add_namespace_calls(PyObject *module)
{
	return PyModule_AddFunctions(module, namespace_calls);
}

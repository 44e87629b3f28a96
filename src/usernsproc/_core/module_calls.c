/* Thin system calls, as in os: an OSError with the errno. */
#include "module.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "beneath.h"
#include "wait.h"

static PyObject *result_of(long result)
{
	return result < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(result);
}

static PyObject *fd_of(PyObject *module, long result)
{
	return fd_or_error(module, result < 0 ? -errno : result);
}

/* struct mount_attr of Linux 5.12, its first size */
struct mount_attr_v0 {
	uint64_t attr_set, attr_clr, propagation, userns_fd;
};

/* A function that makes one system call, and releases the GIL for that. */
#define CALLS(name, format, call, answer, ...)                                      \
	static PyObject *core_##name(PyObject *module, PyObject *arguments)         \
	{                                                                           \
		__attribute__((unused)) struct mount_attr_v0 attributes;            \
		__attribute__((unused)) struct open_how_v0 how = {0, 0, 0};         \
		__attribute__((unused)) const char *path, *to_path;                 \
		__attribute__((unused)) int fd, to_fd;                              \
		__attribute__((unused)) unsigned flags;                             \
		long result;                                                        \
                                                                                    \
		(void)module;                                                       \
		if (!PyArg_ParseTuple(arguments, format ":" #name, __VA_ARGS__))    \
			return NULL;                                                \
		Py_BEGIN_ALLOW_THREADS                                              \
		result = call;                                                      \
		Py_END_ALLOW_THREADS                                                \
		return answer;                                                      \
	}

PyDoc_STRVAR(setns_doc, "setns(fd, nstype)\n\nsetns(2) for the calling thread.");
CALLS(setns, "iI", syscall(__NR_setns, fd, flags), result_of(result), &fd, &flags)

PyDoc_STRVAR(open_tree_doc, "open_tree(dirfd, path, flags) -> OwnedFd\n\nopen_tree(2), Linux 5.2.");
CALLS(open_tree, "iyI", syscall(__NR_open_tree, fd, path, flags), fd_of(module, result), &fd, &path, &flags)

PyDoc_STRVAR(openat2_doc, "openat2(dirfd, path, flags, resolve) -> OwnedFd\n\nopenat2(2), Linux 5.6.");
CALLS(openat2, "iyKK", syscall(__NR_openat2, fd, path, &how, sizeof(how)), fd_of(module, result), &fd, &path, &how.flags,
      &how.resolve)

PyDoc_STRVAR(mount_setattr_doc,
	     "mount_setattr(dirfd, path, flags, attr_set, attr_clr, propagation, userns_fd)\n\n"
	     "mount_setattr(2), Linux 5.12.");
CALLS(mount_setattr, "iyIKKKK", syscall(__NR_mount_setattr, fd, path, flags, &attributes, sizeof(attributes)),
      result_of(result), &fd, &path, &flags, &attributes.attr_set, &attributes.attr_clr, &attributes.propagation,
      &attributes.userns_fd)

PyDoc_STRVAR(open_tree_attr_doc,
	     "open_tree_attr(dirfd, path, flags, attr_set, attr_clr, propagation, userns_fd) -> OwnedFd\n\n"
	     "open_tree_attr(2), Linux 6.15.");
CALLS(open_tree_attr, "iyIKKKK", syscall(__NR_open_tree_attr, fd, path, flags, &attributes, sizeof(attributes)),
      fd_of(module, result), &fd, &path, &flags, &attributes.attr_set, &attributes.attr_clr, &attributes.propagation,
      &attributes.userns_fd)

PyDoc_STRVAR(move_mount_doc, "move_mount(from_dirfd, from_path, to_dirfd, to_path, flags)\n\n"
			     "move_mount(2), Linux 5.2.");
CALLS(move_mount, "iyiyI", syscall(__NR_move_mount, fd, path, to_fd, to_path, flags), result_of(result), &fd, &path,
      &to_fd, &to_path, &flags)

PyDoc_STRVAR(set_death_signal_doc, "set_death_signal(signal)\n\nprctl(PR_SET_PDEATHSIG) for the calling thread.");
CALLS(set_death_signal, "I", prctl(PR_SET_PDEATHSIG, (unsigned long)flags), result_of(result), &flags)

PyDoc_STRVAR(umount2_doc, "umount2(target, flags)\n\numount2(2).");
CALLS(umount2, "yI", syscall(__NR_umount2, path, flags), result_of(result), &path, &flags)

PyDoc_STRVAR(landlock_create_ruleset_doc, "landlock_create_ruleset(flags) -> int\n\n"
					  "landlock_create_ruleset(2) without attributes, Linux 5.13: the number that the\n"
					  "flags ask for.");
CALLS(landlock_create_ruleset, "I", syscall(__NR_landlock_create_ruleset, NULL, 0, flags), result_of(result), &flags)

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
		return result_of(result);
	return PyLong_FromUnsignedLongLong((unsigned long long)answer.f_type);
}

PyDoc_STRVAR(mount_id_doc, "mount_id(dirfd, path, flags, mask) -> int\n\n"
			   "stx_mnt_id of statx(2); 0: this kernel does not report it for that mask.");

static PyObject *core_mount_id(PyObject *module, PyObject *arguments)
{
	struct whereabouts answer;
	unsigned flags, mask;
	const char *path;
	long result;
	int dirfd;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "iyII:mount_id", &dirfd, &path, &flags, &mask))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	result = syscall(__NR_statx, dirfd, path, flags, mask, &answer);
	Py_END_ALLOW_THREADS
	if (result < 0)
		return result_of(result);
	return PyLong_FromUnsignedLongLong(answer.mask & mask ? answer.mount : 0);
}

/* struct mnt_id_req of Linux 6.11 */
struct mount_request {
	uint32_t size, fd;
	uint64_t mount_id, param, namespace_id;
};

enum { STATMOUNT_FIRST_SIZE = 4096, STATMOUNT_LAST_SIZE = 1 << 20 };

PyDoc_STRVAR(statmount_doc, "statmount(mount_id, mask, namespace_id, fd, flags) -> bytes\n\n"
			    "statmount(2), Linux 6.8: a struct statmount and its strings.");

/* The kernel says in the first word how much of the buffer it has written. */
static PyObject *cut_to_size(PyObject *answer)
{
	const char *bytes = PyBytes_AsString(answer);
	PyObject *cut;
	uint32_t size;

	memcpy(&size, bytes, sizeof(size));
	cut = PyBytes_FromStringAndSize(bytes, size < PyBytes_Size(answer) ? (Py_ssize_t)size : PyBytes_Size(answer));
	Py_DECREF(answer);
	return cut;
}

static PyObject *core_statmount(PyObject *module, PyObject *arguments)
{
	unsigned long long mount_id, mask, namespace_id;
	struct mount_request request;
	PyObject *answer = NULL;
	long result = -1;
	unsigned flags;
	int fd;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "KKKiI:statmount", &mount_id, &mask, &namespace_id, &fd, &flags))
		return NULL;
	request = (struct mount_request){sizeof(request), (uint32_t)fd, mount_id, mask, namespace_id};
	for (size_t size = STATMOUNT_FIRST_SIZE; size <= STATMOUNT_LAST_SIZE; size *= 4) {
		Py_CLEAR(answer);
		answer = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
		if (!answer)
			return NULL;
		char *buffer = PyBytes_AsString(answer);
		Py_BEGIN_ALLOW_THREADS
		result = syscall(__NR_statmount, &request, buffer, size, flags);
		Py_END_ALLOW_THREADS
		if (result == 0 || errno != EOVERFLOW) /* the buffer is too small */
			break;
	}
	if (result == 0)
		return cut_to_size(answer);
	PyErr_SetFromErrno(PyExc_OSError);
	Py_DECREF(answer);
	return NULL;
}

enum { LISTMOUNT_IDS = 512 };

PyDoc_STRVAR(listmount_doc, "listmount(mount_id, last_id, namespace_id) -> list of ids\n\n"
			    "listmount(2), Linux 6.8: up to 512 mounts below, those after last_id.");

static PyObject *core_listmount(PyObject *module, PyObject *arguments)
{
	unsigned long long mount_id, last_id, namespace_id;
	struct mount_request request;
	uint64_t ids[LISTMOUNT_IDS];
	long count;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "KKK:listmount", &mount_id, &last_id, &namespace_id))
		return NULL;
	request = (struct mount_request){sizeof(request), 0, mount_id, last_id, namespace_id};
	Py_BEGIN_ALLOW_THREADS
	count = syscall(__NR_listmount, &request, ids, (size_t)LISTMOUNT_IDS, 0);
	Py_END_ALLOW_THREADS
	return count < 0 ? result_of(count) : list_of_numbers(ids, count);
}

enum { MAX_POLLED = 8 };

PyDoc_STRVAR(poll_doc, "poll(fds, milliseconds) -> list of those that are readable\n\n"
		       "poll(2), -1: without a limit. Unlike what is in `select`, no library replaces it and it\n"
		       "lets no greenlet run, so that it can be called while the core waits for an answer.");

static int milliseconds_until(int64_t end)
{
	int64_t left = end - now();

	return left > 0 ? (int)((left + 999999) / 1000000) : 0;
}

static int poll_and_handle_signals(struct pollfd *polled, Py_ssize_t count, int milliseconds)
{
	int64_t end = now() + (int64_t)milliseconds * 1000000;

	for (;;) {
		int ready;

		Py_BEGIN_ALLOW_THREADS
		ready = poll(polled, (nfds_t)count, milliseconds);
		Py_END_ALLOW_THREADS
		if (ready >= 0)
			return 0;
		if (errno != EINTR) {
			PyErr_SetFromErrno(PyExc_OSError);
			return -1;
		}
		if (PyErr_CheckSignals() < 0)
			return -1;
		if (milliseconds > 0)
			milliseconds = milliseconds_until(end);
	}
}

static PyObject *list_of_ready(const struct pollfd *polled, Py_ssize_t count)
{
	PyObject *ready = PyList_New(0);

	for (Py_ssize_t i = 0; ready && i < count; i++) {
		PyObject *fd = polled[i].revents ? PyLong_FromLong(polled[i].fd) : NULL;

		if (polled[i].revents && (!fd || PyList_Append(ready, fd) < 0))
			Py_CLEAR(ready);
		Py_XDECREF(fd);
	}
	return ready;
}

static PyObject *core_poll(PyObject *module, PyObject *arguments)
{
	struct pollfd polled[MAX_POLLED];
	PyObject *fds;
	Py_ssize_t count;
	int milliseconds;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "O!i:poll", &PyTuple_Type, &fds, &milliseconds))
		return NULL;
	count = PyTuple_Size(fds);
	if (count > MAX_POLLED)
		return PyErr_Format(PyExc_ValueError, "poll: at most %d descriptors", MAX_POLLED);
	for (Py_ssize_t i = 0; i < count; i++) {
		polled[i] = (struct pollfd){.fd = (int)PyLong_AsLong(PyTuple_GetItem(fds, i)), .events = POLLIN};
		if (PyErr_Occurred())
			return NULL;
	}
	return poll_and_handle_signals(polled, count, milliseconds) < 0 ? NULL : list_of_ready(polled, count);
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
	{"reap", core_reap, METH_VARARGS, reap_doc},
	{"poll", core_poll, METH_VARARGS, poll_doc},
	{"setns", core_setns, METH_VARARGS, setns_doc},
	{"openat2", core_openat2, METH_VARARGS, openat2_doc},
	{"file_system_type", core_file_system_type, METH_VARARGS, file_system_type_doc},
	{"open_tree", core_open_tree, METH_VARARGS, open_tree_doc},
	{"mount_setattr", core_mount_setattr, METH_VARARGS, mount_setattr_doc},
	{"open_tree_attr", core_open_tree_attr, METH_VARARGS, open_tree_attr_doc},
	{"move_mount", core_move_mount, METH_VARARGS, move_mount_doc},
	{"set_death_signal", core_set_death_signal, METH_VARARGS, set_death_signal_doc},
	{"umount2", core_umount2, METH_VARARGS, umount2_doc},
	{"landlock_create_ruleset", core_landlock_create_ruleset, METH_VARARGS, landlock_create_ruleset_doc},
	{"mount_id", core_mount_id, METH_VARARGS, mount_id_doc},
	{"statmount", core_statmount, METH_VARARGS, statmount_doc},
	{"listmount", core_listmount, METH_VARARGS, listmount_doc},
	{NULL, NULL, 0, NULL},
};

int add_system_calls(PyObject *module)
{
	return PyModule_AddFunctions(module, system_calls);
}

/* See proven_proc.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "beneath.h"
#include "core.h"
#include "proven_proc.h"

#define MAGIC_OF_PROC 0x9fa0
#define MAGIC_OF_NSFS 0x6e736673
#define INODE_OF_ROOT 1

/* Longest path that is made here. */
#define PATH_SIZE 64

static int has_type(int fd, unsigned long type)
{
	struct statfs status;

	return fstatfs(fd, &status) == 0 && (unsigned long)status.f_type == type;
}

static int exists_in(int directory, const char *name)
{
	long fd = RAW4(openat, directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);

	if (fd >= 0)
		RAW1(close, fd);
	return fd >= 0;
}

/* Neither another file system nor a directory of procfs that was mounted there. What has
 * nothing of a /proc about it is none. */
static int refuse_unless_root(int fd)
{
	struct whereabouts found;
	long result;

	if (!has_type(fd, MAGIC_OF_PROC))
		return exists_in(fd, "self") ? -EXDEV : -ENOENT;
	result = find_whereabouts(fd, &found);
	if (result < 0)
		return (int)result;
	return found.inode == INODE_OF_ROOT ? 0 : -EXDEV;
}

int open_proc_root(void)
{
	int root = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC), error;

	if (root < 0)
		return -errno;
	error = refuse_unless_root(root);
	if (!error)
		return root;
	close(root);
	return error;
}

int open_in(int directory, const char *path, int flags)
{
	return (int)open_beneath(directory, path, flags);
}

int open_proc(const char *path, int flags)
{
	struct borrowed root = borrow_proc_root();
	int fd;

	if (root.fd < 0)
		return root.fd;
	fd = open_in(root.fd, path, flags);
	give_back(root);
	return fd;
}

static int open_link(int directory, const char *path)
{
	return directory < 0 ? open_proc(path, O_PATH | O_NOFOLLOW) : open_in(directory, path, O_PATH | O_NOFOLLOW);
}

ssize_t read_link_in(int directory, const char *path, char *text, size_t size)
{
	int link = open_link(directory, path);
	ssize_t length;

	if (link < 0)
		return link;
	length = RAW4(readlinkat, link, "", text, size - 1);
	close(link);
	if (length >= 0)
		text[length] = 0;
	return length;
}

/* ---- namespaces ---- */

/* Requests of the ioctl on a pidfd, Linux 6.11. */
static const struct {
	const char *name;
	unsigned long request;
} requests[] = {
	{"cgroup", _IO(0xff, 1)}, {"ipc", _IO(0xff, 2)},   {"mnt", _IO(0xff, 3)},
	{"net", _IO(0xff, 4)},	  {"pid", _IO(0xff, 5)},   {"pid_for_children", _IO(0xff, 6)},
	{"time", _IO(0xff, 7)},	  {"time_for_children", _IO(0xff, 8)},
	{"user", _IO(0xff, 9)},	  {"uts", _IO(0xff, 10)},
};

int open_namespace_by_pidfd(int pidfd, const char *name)
{
	int fd;

	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		if (strcmp(requests[i].name, name) != 0)
			continue;
		fd = ioctl(pidfd, requests[i].request, 0);
		return fd < 0 ? -errno : fd;
	}
	return -EINVAL;
}

/* The number in `user:[N]`; 0: it is the name of something else. */
static unsigned long number_in(const char *text)
{
	const char *bracket = strstr(text, ":[");

	return bracket ? strtoul(bracket + 2, NULL, 10) : 0;
}

/* All namespaces have numbers of their own, of whatever kind. */
static int refuse_unless_namespace(int fd, unsigned long number)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return -errno;
	return has_type(fd, MAGIC_OF_NSFS) && status.st_ino == number ? 0 : -EXDEV;
}

/* openat2(2) does not follow a magic link to another file system. So the link itself is
 * proven, and then what was opened by it is compared with what it says. */
static int follow_namespace_link(int root, const char *path)
{
	char text[PATH_SIZE];
	ssize_t length = read_link_in(root, path, text, sizeof(text));
	unsigned long number;
	int fd, error;

	if (length < 0)
		return (int)length;
	number = number_in(text);
	if (!number)
		return -ENOTTY; /* as of an ioctl_ns(2) */
	fd = openat(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	error = refuse_unless_namespace(fd, number);
	if (!error)
		return fd;
	close(fd);
	return error;
}

int open_namespace_link(int directory, const char *path)
{
	struct borrowed root;
	int fd;

	if (directory >= 0)
		return follow_namespace_link(directory, path);
	root = borrow_proc_root();
	if (root.fd < 0)
		return root.fd;
	fd = follow_namespace_link(root.fd, path);
	give_back(root);
	return fd;
}

/* Whatever the pidfd's answer was, that of the link says more: also a zombie has one. */
int open_namespace(int pidfd, int proc_dir, const char *name)
{
	char path[PATH_SIZE];
	int fd = open_namespace_by_pidfd(pidfd, name);

	if (fd >= 0)
		return fd;
	snprintf(path, sizeof(path), "ns/%s", name);
	return open_namespace_link(proc_dir, path);
}

/* All threads have the same: unshare(2) and setns(2) refuse another one to a process with several threads. */
static int open_own_userns(void)
{
	struct failure ignored;
	struct borrowed self;
	int fd = -ENOSYS;

	if (borrow_self(&self, &ignored) >= 0)
		fd = open_namespace_by_pidfd(self.fd, "user");
	give_back(self);
	return fd;
}

int open_own_namespace(const char *name)
{
	char path[PATH_SIZE];
	int fd = -1;
	long pidfd;

	if (strcmp(name, "user") == 0)
		fd = open_own_userns();
	if (fd >= 0)
		return fd;
	pidfd = RAW2(pidfd_open, RAW0(gettid), PIDFD_OF_THREAD);
	if (pidfd >= 0) {
		fd = open_namespace_by_pidfd((int)pidfd, name);
		RAW1(close, pidfd);
	}
	if (fd >= 0)
		return fd;
	snprintf(path, sizeof(path), "thread-self/ns/%s", name);
	return open_namespace_link(-1, path);
}

/* ---- descriptors of the calling thread ---- */

static int refuse_unless_same_file(int one, int other)
{
	struct stat first, second;

	if (fstat(one, &first) < 0 || fstat(other, &second) < 0)
		return -errno;
	return first.st_dev == second.st_dev && first.st_ino == second.st_ino ? 0 : -EXDEV;
}

int reopen(int fd, int flags)
{
	char path[PATH_SIZE];
	struct borrowed root = borrow_proc_root();
	int link, again, error;

	if (root.fd < 0)
		return root.fd;
	snprintf(path, sizeof(path), "thread-self/fd/%d", fd);
	link = open_in(root.fd, path, O_PATH | O_NOFOLLOW);
	if (link >= 0) {
		close(link);
		again = openat(root.fd, path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		again = again < 0 ? -errno : again;
	} else {
		again = link;
	}
	give_back(root);
	if (again < 0)
		return again;
	error = refuse_unless_same_file(fd, again);
	if (!error)
		return again;
	close(again);
	return error;
}

/* ---- numbers of processes ---- */

/* What the kernel reports of a pidfd. */
static int read_fdinfo(int root, int pidfd, char *text, size_t size)
{
	char path[PATH_SIZE];
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "thread-self/fdinfo/%d", pidfd);
	fd = open_in(root, path, O_RDONLY);
	if (fd < 0)
		return fd;
	length = read(fd, text, size - 1);
	if (length < 0)
		length = -errno;
	close(fd);
	text[length < 0 ? 0 : length] = 0;
	return length < 0 ? (int)length : 0;
}

int find_pid_in_proc(int root, int pidfd, pid_t *pid)
{
	char text[512], *line;
	int error = read_fdinfo(root, pidfd, text, sizeof(text));

	if (error < 0)
		return error;
	line = strstr(text, "\nPid:");
	if (!line)
		return -EBADF;
	*pid = (pid_t)atoi(line + 5);
	return 0;
}

/* The numbers of a process from the pid namespace of this /proc down to its own: it is the same one
 * where there is a single number. A kernel without pid namespaces does not list them. */
int has_own_numbers(int root)
{
	long self = RAW2(pidfd_open, getpid(), 0);
	char text[512], *line;
	int error;

	if (self < 0)
		return 0;
	error = read_fdinfo(root, (int)self, text, sizeof(text));
	RAW1(close, self);
	if (error < 0)
		return 0;
	line = strstr(text, "\nNSpid:\t");
	return !line || line[strlen("\nNSpid:\t") + strspn(line + strlen("\nNSpid:\t"), "0123456789")] == '\n';
}

int has_pids_of_caller(struct borrowed root)
{
	return root.is_kept ? root.finding : has_own_numbers(root.fd);
}

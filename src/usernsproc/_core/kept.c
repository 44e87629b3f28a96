/* See kept.h. */
#include <errno.h>
#include <pthread.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "descriptors.h"
#include "kept.h"
#include "rawsys.h"

#define MAGIC_OF_PIDFS 0x50494446

struct kept {
	int fd; /* -1: none */
	dev_t device;
	ino_t inode;
};

static struct kept image = {.fd = -1}, self = {.fd = -1};
static uint64_t generation_of_self;

static void keep(struct kept *kept, int fd)
{
	struct stat status;

	if (fd < 0)
		return;
	if (fstat(fd, &status) < 0) {
		close(fd);
		return;
	}
	kept->device = status.st_dev;
	kept->inode = status.st_ino;
	kept->fd = fd;
}

/* Before Linux 6.9 all pidfds look alike: then it could not be told whether this is still the same. */
static int has_identity(int pidfd)
{
	struct statfs status;

	return fstatfs(pidfd, &status) == 0 && status.f_type == MAGIC_OF_PIDFS;
}

static int open_pidfd(void)
{
	return above_stdio((int)syscall(__NR_pidfd_open, getpid(), 0));
}

static void open_all(void)
{
	int pidfd = open_pidfd();

	keep(&image, make_shared_image());
	if (pidfd >= 0 && !has_identity(pidfd)) {
		close(pidfd);
		return;
	}
	keep(&self, pidfd);
	generation_of_self = generation();
}

void open_kept_descriptors(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, open_all);
}

/* The number may meanwhile be that of another file. */
static int check(struct kept *kept, struct stat *status)
{
	int fd = __atomic_load_n(&kept->fd, __ATOMIC_RELAXED);

	if (fd < 0)
		return -1;
	if (fstat(fd, status) == 0 && status->st_dev == kept->device && status->st_ino == kept->inode)
		return fd;
	__atomic_store_n(&kept->fd, -1, __ATOMIC_RELAXED);
	return -1;
}

int kept_image(struct stat *status)
{
	return check(&image, status);
}

int open_self(struct failure *failure)
{
	struct stat status;
	int pidfd = generation_of_self == generation() ? check(&self, &status) : -1; /* a copy is another process */

	if (pidfd < 0)
		pidfd = open_pidfd();
	return pidfd < 0 ? fail(failure, STEP_pidfd_open, errno) : pidfd;
}

void close_unless_kept(int fd)
{
	if (fd >= 0 && fd != __atomic_load_n(&image.fd, __ATOMIC_RELAXED) &&
	    fd != __atomic_load_n(&self.fd, __ATOMIC_RELAXED))
		close(fd);
}

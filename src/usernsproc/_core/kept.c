/* See kept.h. */
#include <errno.h>
#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "beneath.h"
#include "proven_proc.h"

#define MAGIC_OF_PIDFS 0x50494446 /* PIDFS_MAGIC */

static int look_at(int fd, struct whereabouts *found, struct identity *identity)
{
	int error = (int)find_whereabouts_by(fd, WHEREABOUTS_LASTING_MOUNT | WHEREABOUTS_OWNER_AND_MODE, found);

	if (error < 0)
		return error;
	identity->device = (uint64_t)found->device_major << 32 | found->device_minor;
	identity->inode = found->inode;
	identity->mount = found->mask & WHEREABOUTS_LASTING_MOUNT ? found->mount : 0;
	return 0;
}

int identify(int fd, struct identity *identity)
{
	struct whereabouts found;

	return look_at(fd, &found, identity);
}

int is_still_there(const struct kept *kept, struct whereabouts *found)
{
	struct identity identity;

	int error = kept->fd > 0 ? look_at(kept->fd, found, &identity) : -EBADF;

	if (error < 0)
		return error == -EBADF ? 0 : error;
	return identity.device == kept->identity.device && identity.inode == kept->identity.inode &&
	       identity.mount == kept->identity.mount;
}

void give_back(struct borrowed borrowed)
{
	if (!borrowed.is_kept)
		close_if_open(borrowed.fd);
}

/* ---- of this copy of the program ---- */

/* A thread that has unshared its descriptors finds that of another thread missing, and the other way
 * round: then they do not open them again and again. */
#define MOST_OPENINGS 16

struct keeping {
	struct kept kept;
	enum lock lock;
	int (*open)(void); /* a descriptor, or a negative errno */
	int (*can_last)(int fd, const struct identity *identity);
	int (*is_other)(int fd); /* which has the same identity, or a negative errno; NULL: none has */
	int (*find)(int fd);
};

static int is_there(const struct keeping *keeping)
{
	struct whereabouts found;
	int result = is_still_there(&keeping->kept, &found), other;

	if (result <= 0 || !keeping->is_other)
		return result;
	other = keeping->is_other(keeping->kept.fd);
	return other < 0 ? other : !other;
}

/* That of the original is of no use in a copy, which can be in another pid namespace. */
static void close_inherited(struct keeping *keeping)
{
	struct kept *kept = &keeping->kept;

	if (is_there(keeping) > 0)
		close(kept->fd);
	kept->fd = kept->openings = 0;
}

static int keep(struct keeping *keeping, int fd)
{
	struct kept *kept = &keeping->kept;

	if (kept->openings >= MOST_OPENINGS || identify(fd, &kept->identity) < 0 ||
	    !keeping->can_last(fd, &kept->identity))
		return 0;
	kept->fd = fd;
	kept->openings++;
	kept->finding = keeping->find ? keeping->find(fd) : 0;
	return 1;
}

static struct borrowed open_one(const struct keeping *keeping)
{
	struct borrowed opened = {.fd = keeping->open()};

	if (opened.fd >= 0 && opened.fd <= 2) {
		opened.fd = above_stdio(opened.fd);
		opened.fd = opened.fd < 0 ? -errno : opened.fd;
	}
	return opened;
}

static struct borrowed borrow_locked(struct keeping *keeping)
{
	struct kept *kept = &keeping->kept;
	struct borrowed borrowed;
	int result;

	if (kept->generation != generation())
		close_inherited(keeping);
	kept->generation = generation();
	result = is_there(keeping);
	if (result > 0)
		return (struct borrowed){kept->fd, 1, kept->finding};
	if (result < 0) /* it may be there, and is not opened twice */
		return open_one(keeping);
	kept->fd = 0;
	borrowed = open_one(keeping);
	if (borrowed.fd >= 0)
		borrowed.is_kept = keep(keeping, borrowed.fd);
	borrowed.finding = kept->finding;
	return borrowed;
}

/* Whoever finds it locked opens one for this call alone. */
static struct borrowed borrow(struct keeping *keeping)
{
	int *lock = lock_of_copy(keeping->lock);
	struct borrowed borrowed;

	if (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE))
		return open_one(keeping);
	borrowed = borrow_locked(keeping);
	__atomic_store_n(lock, 0, __ATOMIC_RELEASE);
	return borrowed;
}

/* ---- the two ---- */

static int open_self(void)
{
	return (int)RAW2(pidfd_open, getpid(), 0);
}

/* Before, all pidfds were one file. */
static int is_in_pidfs(int fd, const struct identity *identity)
{
	struct statfs status;

	(void)identity;
	return fstatfs(fd, &status) == 0 && status.f_type == MAGIC_OF_PIDFS;
}

/* The pidfd of the main thread is the same file. Before Linux 6.15 it is readable when that thread ends. */
static int is_of_thread(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 ? -errno : (flags & PIDFD_OF_THREAD) != 0;
}

int borrow_self(struct borrowed *self, struct failure *failure)
{
	static struct keeping keeping = {.lock = LOCK_SELF, .open = open_self, .can_last = is_in_pidfs, .is_other = is_of_thread};

	*self = borrow(&keeping);
	return self->fd < 0 ? fail(failure, STEP_pidfd_open, -self->fd) : self->fd;
}

/* A mount has one file system for as long as it exists, and a procfs one pid namespace. */
static int is_lasting_mount(int fd, const struct identity *identity)
{
	(void)fd;
	return identity->mount != 0;
}

struct borrowed borrow_proc_root(void)
{
	static struct keeping keeping = {
		.lock = LOCK_PROC, .open = open_proc_root, .can_last = is_lasting_mount, .find = has_own_numbers};

	return borrow(&keeping);
}

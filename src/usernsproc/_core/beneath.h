/* Opening what lies beneath a directory, and on the same mount.
 *
 * In a mount namespace that another user controls, any file can lie under a mount of
 * that user's. openat2(2) refuses to cross one, and to follow a magic link, with EXDEV and
 * ELOOP. Linux before 5.6 and some seccomp filters do not have that call (ENOSYS, EPERM):
 * then each component is opened by itself, without following, and is compared with the
 * directory by its device and, since Linux 5.8, by its mount. Before Linux 5.8 a mount of
 * a file of the same file system cannot be recognized that way.
 *
 * Inlined everywhere, as inline.h: for the parent, for the child in its memory, and for
 * the programs that run alone.
 */
#ifndef USERNSPROC_BENEATH_H
#define USERNSPROC_BENEATH_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>

#include "rawsys.h"

#define BENEATH_NO_XDEV 0x01
#define BENEATH_NO_MAGICLINKS 0x02
#define BENEATH_BENEATH 0x08

/* struct statx, what is used of it */
struct whereabouts {
	uint32_t mask;
	char before[16];
	uint32_t uid, gid;
	uint16_t mode, spare;
	uint64_t inode;
	char between[96];
	uint32_t device_major, device_minor;
	uint64_t mount;
	char after[104];
};

#define WHEREABOUTS_TYPE 0x1
#define WHEREABOUTS_INODE 0x100
#define WHEREABOUTS_OWNER_AND_MODE (0x2 | 0x8 | 0x10)
#define WHEREABOUTS_MOUNT 0x1000
#define WHEREABOUTS_LASTING_MOUNT 0x4000 /* its number is never that of another: Linux 6.8 */

RAW_INLINE long find_whereabouts_by(int fd, uint32_t mount, struct whereabouts *found)
{
	char here = 0;

	return RAW5(statx, fd, &here, AT_EMPTY_PATH, WHEREABOUTS_INODE | mount, found);
}

RAW_INLINE long find_whereabouts(int fd, struct whereabouts *found)
{
	return find_whereabouts_by(fd, WHEREABOUTS_MOUNT, found);
}

RAW_INLINE int is_same_mount(const struct whereabouts *one, const struct whereabouts *other)
{
	if (one->device_major != other->device_major || one->device_minor != other->device_minor)
		return 0;
	return !(one->mask & other->mask & WHEREABOUTS_MOUNT) || one->mount == other->mount;
}

RAW_INLINE long open_component(int directory, const char *name, long flags)
{
	struct whereabouts here, there;
	long fd = RAW4(openat, directory, name, flags | O_NOFOLLOW | O_CLOEXEC, 0), result;

	if (fd < 0)
		return fd;
	result = find_whereabouts(directory, &here);
	if (result >= 0)
		result = find_whereabouts((int)fd, &there);
	if (result >= 0 && !is_same_mount(&here, &there))
		result = -EXDEV;
	if (result >= 0)
		return fd;
	RAW1(close, fd);
	return result;
}

/* Longer than any path that is used here: "thread-self/fdinfo/N", with the link resolved. */
#define BENEATH_MOST 128

/* Copies up to a slash or the end, -1: it is too long. */
RAW_INLINE int copy_component(char *to, const char *from)
{
	for (int i = 0; i < BENEATH_MOST; i++) {
		*(volatile char *)(to + i) = from[i]; /* one by one: memcpy() is out of reach of the programs */
		if (!from[i] || from[i] == '/') {
			to[i] = 0;
			return i;
		}
	}
	return -1;
}

/* The target of the link that the path begins with, such as `self`, or nothing: 0. */
RAW_INLINE long read_first_link(int directory, const char *name, char *target)
{
	char here = 0;
	long link = open_component(directory, name, O_PATH), length;

	if (link < 0)
		return link;
	length = RAW4(readlinkat, link, &here, target, BENEATH_MOST - 1);
	RAW1(close, link);
	if (length < 0) /* it is none */
		return 0;
	target[length] = 0;
	return length;
}

/* Without following any link. */
RAW_INLINE long walk_components(int directory, const char *path, long flags)
{
	char name[BENEATH_MOST];
	int at = directory;

	for (;;) {
		int length = copy_component(name, path);
		long fd = length < 0 ? -ENAMETOOLONG : open_component(at, name, O_PATH);

		/* Only what is known to lie there is opened for more. */
		if (fd >= 0 && !path[length] && !(flags & O_PATH)) {
			RAW1(close, fd);
			fd = open_component(at, name, flags);
		}
		if (at != directory)
			RAW1(close, at);
		if (fd < 0 || !path[length])
			return fd;
		path += length + 1;
		at = (int)fd;
	}
}

RAW_INLINE long walk_beneath(int directory, const char *path, long flags)
{
	char name[BENEATH_MOST], target[BENEATH_MOST];
	int length = copy_component(name, path);
	long result, at;

	if (length < 0)
		return -ENAMETOOLONG;
	if (!path[length])
		return walk_components(directory, path, flags);
	result = read_first_link(directory, name, target);
	if (result <= 0)
		return result < 0 ? result : walk_components(directory, path, flags);
	at = walk_components(directory, target, O_PATH);
	if (at < 0)
		return at;
	result = walk_components((int)at, path + length + 1, flags);
	RAW1(close, at);
	return result;
}

/* A descriptor of *path* in *directory*, or a negative errno: EXDEV where something else
 * is mounted on the way. A link can only be the first component. Close-on-exec. */
RAW_INLINE long open_beneath(int directory, const char *path, long flags)
{
	struct open_how_v0 how;
	uint64_t none = 0;
	long fd;

	/* Hidden from the optimizer, which on s390x would load both words from a table. */
	__asm__("" : "+r"(none));
	how.flags = (uint64_t)(flags | O_CLOEXEC);
	how.mode = none;
	how.resolve = BENEATH_NO_XDEV | BENEATH_NO_MAGICLINKS | BENEATH_BENEATH;
	fd = RAW4(openat2, directory, path, &how, sizeof(how));
	return fd == -ENOSYS || fd == -EPERM ? walk_beneath(directory, path, flags) : fd;
}

#endif

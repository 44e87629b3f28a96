/* Pieces that both the child in the parent's memory and the programs that run
 * alone need. Inlined everywhere: a program's section must be complete. */
#ifndef USERNSPROC_INLINE_H
#define USERNSPROC_INLINE_H

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "beneath.h"
#include "core.h"
#include "rawsys.h"

#define KERNEL_SIGSET_SIZE 8

RAW_INLINE __attribute__((noreturn)) void leave(int status)
{
	for (;;)
		RAW1(exit_group, status);
}

/* Ask for a signal at the creating thread's end (PR_SET_PDEATHSIG), and leave
 * if that end has come already.
 *
 * getppid() is exact where the parent can be seen: it changes when the kernel
 * gives the child to another parent. It is 0 when the parent lives in another
 * pid namespace, before and after; there the parent's pidfd shows it.
 */
RAW_INLINE void die_with_parent(const struct parent_death *death, int signal)
{
	struct pollfd parent = {.fd = death->parent_pidfd, .events = POLLIN};
	struct {
		int64_t seconds, nanoseconds;
	} now = {0, 0};
	long seen;

	RAW2(prctl, PR_SET_PDEATHSIG, signal);
	if (signal == 0)
		return;
	seen = RAW0(getppid);
	if (seen == death->parent)
		return;
	if (seen == 0 && RAW5(ppoll, &parent, 1, &now, 0, KERNEL_SIGSET_SIZE) == 0)
		return;
	leave(255);
}

RAW_INLINE void set_signal_mask(uint64_t mask)
{
	RAW4(rt_sigprocmask, SIG_SETMASK, &mask, 0, KERNEL_SIGSET_SIZE);
}

/* struct sigaction of the kernel begins with the handler on all of our
 * architectures; the rest is zero for SIG_DFL. */
struct kernel_sigaction {
	uintptr_t handler, rest[7];
};

RAW_INLINE void handle(long signal, void (*handler)(int))
{
	struct kernel_sigaction action;

	action.handler = (uintptr_t)handler;
	for (int i = 0; i < 7; i++)
		((volatile uintptr_t *)action.rest)[i] = 0;
	RAW4(rt_sigaction, signal, &action, 0, KERNEL_SIGSET_SIZE);
}

/* ---- closing descriptors ---- */

struct directory_entry {
	uint64_t inode;
	int64_t offset;
	uint16_t length;
	uint8_t type;
	char name[];
};

/* An entry is "." or "..", or a descriptor. */
RAW_INLINE unsigned number_of(const struct directory_entry *entry)
{
	unsigned fd = 0;

	for (const char *digit = entry->name; *digit >= '0' && *digit <= '9'; digit++)
		fd = fd * 10 + (unsigned)(*digit - '0');
	return fd;
}

RAW_INLINE long close_listed(unsigned first, unsigned last, long directory, int proc)
{
	_Alignas(8) char buffer[1024];
	long length;

	while ((length = RAW3(getdents64, directory, buffer, sizeof(buffer))) > 0) {
		for (long at = 0; at < length;) {
			struct directory_entry *entry = (struct directory_entry *)(buffer + at);
			unsigned fd = number_of(entry);

			at += entry->length;
			if (entry->name[0] != '.' && fd >= first && fd <= last && fd != (unsigned)directory &&
			    fd != (unsigned)proc)
				RAW1(close, fd);
		}
	}
	return length;
}

/* The directory /proc/self/fd of a proven procfs, if nothing is mounted over it. */
RAW_INLINE long open_own_descriptors(int proc)
{
	char name[8]; /* written by letters: a program has no string constants */
	volatile char *letters = name;
	struct whereabouts here, there;
	long directory, result;

	letters[0] = 's', letters[1] = 'e', letters[2] = 'l', letters[3] = 'f';
	letters[4] = '/', letters[5] = 'f', letters[6] = 'd', letters[7] = 0;
	directory = RAW4(openat, proc, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	if (directory < 0)
		return directory;
	result = find_whereabouts(proc, &here);
	if (result >= 0)
		result = find_whereabouts((int)directory, &there);
	if (result >= 0 && is_same_mount(&here, &there))
		return directory;
	RAW1(close, directory);
	return result < 0 ? result : -EXDEV;
}

/* All from the first to the last. close_range(2) is missing before Linux 5.9, and a filter may refuse
 * it. The limit RLIMIT_NOFILE would be no bound: it may be 2^30, and it may have been lowered. */
RAW_INLINE long close_descriptors(unsigned first, unsigned last, int proc)
{
	long directory, result = RAW3(close_range, first, last, 0);

	if (result == 0 || proc < 0)
		return result;
	directory = open_own_descriptors(proc);
	if (directory < 0)
		return directory;
	result = close_listed(first, last, directory, proc);
	RAW1(close, directory);
	return result;
}

/* ---- capabilities ---- */

struct capabilities {
	struct __user_cap_data_struct low, high;
};

RAW_INLINE long get_capabilities(struct capabilities *capabilities)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	return RAW2(capget, &header, capabilities);
}

RAW_INLINE long set_capabilities(const struct capabilities *capabilities)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	return RAW2(capset, &header, capabilities);
}

RAW_INLINE uint64_t permitted(const struct capabilities *capabilities)
{
	return (uint64_t)capabilities->high.permitted << 32 | capabilities->low.permitted;
}

/* Of those that it has no others than these. */
RAW_INLINE long limit_capabilities(uint64_t wanted)
{
	struct capabilities own;
	long result = get_capabilities(&own);

	if (result < 0)
		return result;
	own.low.permitted &= (uint32_t)wanted;
	own.high.permitted &= (uint32_t)(wanted >> 32);
	own.low.effective = own.low.permitted;
	own.high.effective = own.high.permitted;
	own.low.inheritable = own.high.inheritable = 0;
	return set_capabilities(&own);
}

/* Let exactly these capabilities survive an exec of any user: ambient ones. */
RAW_INLINE long keep_over_exec(uint64_t wanted)
{
	struct capabilities own;
	long result = get_capabilities(&own);

	if (result < 0)
		return result;
	own.low.inheritable = (uint32_t)wanted;
	own.high.inheritable = (uint32_t)(wanted >> 32);
	own.low.effective = own.low.permitted;
	own.high.effective = own.high.permitted;
	result = set_capabilities(&own);
	if (result == 0)
		result = RAW5(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int capability = 0; result == 0 && capability < 64; capability++)
		if (wanted >> capability & 1)
			result = RAW5(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
	return result;
}

/* ---- the calls of a set-up ---- */

RAW_INLINE long is_directory(long fd)
{
	struct whereabouts found;
	long result = find_whereabouts_by((int)fd, WHEREABOUTS_TYPE, &found);

	return result < 0 ? result : (found.mode & S_IFMT) == S_IFDIR;
}

RAW_INLINE long make_like(const long *arguments)
{
	long directory = is_directory(arguments[2]);

	if (directory < 0)
		return directory;
	if (directory)
		return RAW3(mkdirat, arguments[0], arguments[1], 0755);
	return RAW4(mknodat, arguments[0], arguments[1], S_IFREG | 0444, 0);
}

RAW_INLINE long choose_like(const long *arguments)
{
	long directory = is_directory(arguments[0]);

	return directory < 0 ? directory : arguments[directory ? 1 : 2];
}

RAW_INLINE long is_same(const long *arguments)
{
	struct whereabouts one, other;
	long result = find_whereabouts((int)arguments[0], &one);

	if (result >= 0)
		result = find_whereabouts((int)arguments[1], &other);
	if (result < 0)
		return result;
	if (one.inode != other.inode || one.device_major != other.device_major || one.device_minor != other.device_minor)
		return -ESTALE;
	return 0;
}

RAW_INLINE long is_equal(const long *arguments)
{
	const volatile char *one = (const char *)arguments[0], *other = (const char *)arguments[1];

	for (long i = 0; i < arguments[2]; i++)
		if (one[i] != other[i])
			return -EEXIST;
	return 0;
}

RAW_INLINE long store_address(const long *arguments)
{
	*(volatile long *)arguments[0] = arguments[1];
	return 0;
}

RAW_INLINE long make_call(long number, const long *arguments)
{
	if (number == CALL_MAKE_LIKE)
		return make_like(arguments);
	if (number == CALL_CHOOSE_LIKE)
		return choose_like(arguments);
	if (number == CALL_IS_SAME)
		return is_same(arguments);
	if (number == CALL_STORE_ADDRESS)
		return store_address(arguments);
	if (number == CALL_IS_EQUAL)
		return is_equal(arguments);
	if (number == CALL_FORK)
		return raw_fork(0, 0);
	return raw_syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}

/* Whether all results that it takes exist. */
RAW_INLINE int take_arguments(const struct setup *setup, const struct system_call *call, long *arguments)
{
	for (int n = 0; n < 6; n++) {
		arguments[n] = (long)call->arguments[n];
		if (call->pointers >> n & 1)
			arguments[n] += (long)setup->data;
		if (call->results >> n & 1)
			arguments[n] = (long)*(volatile int64_t *)(setup->data + arguments[n]);
		if (call->results >> n & 1 && arguments[n] < 0)
			return 0;
	}
	return 1;
}

RAW_INLINE int is_tolerated(const struct system_call *call, long result)
{
	for (int n = 0; n < 5; n++)
		if (result == -call->tolerated[n])
			return 1;
	return 0;
}

/* Make the calls of a section. A negative errno, and the index of the call to report. */
RAW_INLINE long run_calls(const struct setup *setup, enum section section, enum step *step)
{
	int32_t last = setup->ends[section], helpers = -1;

	for (int32_t i = section ? setup->ends[section - 1] : 0; i < last && i != helpers; i++) {
		const struct system_call *call = &setup->calls[i];
		long arguments[6], result;

		if (!take_arguments(setup, call, arguments))
			continue;
		result = make_call(call->number, arguments);
		if (result >= 0 && call->expected >= 0 && result != call->expected)
			result = -EIO;
		if (result < 0 && !is_tolerated(call, result)) {
			*step = (enum step)(STEP_COUNT + i);
			return result;
		}
		if (call->result >= 0)
			*(volatile int64_t *)(setup->data + call->result) = result;
		if (call->number == CALL_FORK && result == 0)
			helpers = i + 1 + (int32_t)arguments[0];
		else if (call->number == CALL_FORK)
			i += (int32_t)arguments[0];
	}
	if (helpers >= 0)
		leave(0);
	return 0;
}

/* Pid and time namespaces are those of children that are created after it was entered or created. */
RAW_INLINE int needs_child(const struct namespaces *namespaces)
{
	uint64_t kinds = namespaces->flags;

	for (uint32_t i = 0; i < namespaces->join_count; i++)
		kinds |= namespaces->joins[i].kind & CLONE_NEWPID;
	return (kinds & (CLONE_NEWPID | CLONE_NEWTIME)) != 0;
}

/* Execute the first candidate that exists, as execvp(3) does. Returns the
 * errno to report: the first that says more than "not there". */
RAW_INLINE int execute(const struct command *command)
{
	int telling = 0, error = ENOENT;

	for (char *const *path = command->candidates; *path; path++) {
		error = (int)-RAW3(execve, *path, command->argv, command->envp);
		if (error != ENOENT && error != ENOTDIR && !telling)
			telling = error;
	}
	return telling ? telling : error;
}

#endif

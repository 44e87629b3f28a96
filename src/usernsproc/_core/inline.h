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

/* Make the calls from the first to before the last. A negative errno, and what to report. */
RAW_INLINE long run_calls(const struct setup *setup, uint32_t first, uint32_t last, enum step *step)
{
	for (uint32_t i = first; i < last; i++) {
		const struct system_call *call = &setup->calls[i];
		long arguments[5], result;

		for (int n = 0; n < 5; n++)
			arguments[n] = (long)(call->arguments[n] + (call->pointers >> n & 1 ? (uintptr_t)setup->data : 0));
		result = raw_syscall(call->number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4]);
		if (result < 0 && result != -call->tolerated[0] && result != -call->tolerated[1]) {
			*step = (enum step)call->step;
			return result;
		}
	}
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

/* Pieces that both the child in the parent's memory and the programs that run
 * alone need. Inlined everywhere: a program's section must be complete. */
#ifndef USERNSPROC_INLINE_H
#define USERNSPROC_INLINE_H

#include <errno.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>

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
 * pid namespace, before and after; there the parent's pidfd tells.
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

struct capabilities {
	struct __user_cap_data_struct low, high;
};

#define CAPABILITIES_SETID (1u << CAP_SETUID | 1u << CAP_SETGID)

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

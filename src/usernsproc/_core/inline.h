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

/* Let exactly these capabilities survive an exec, by whomever: ambient ones. */
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

RAW_INLINE long refuse_new_privileges(const struct privileges *privileges)
{
	return privileges->no_new_privs ? RAW5(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) : 0;
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

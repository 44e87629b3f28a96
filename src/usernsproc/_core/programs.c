/* Programs of ours that run alone, in memory that holds nothing else.
 *
 * Each is one function in a section of its own. Its bytes are copied into an
 * ELF image at run time (image.c) and started by the kernel: no libc, no
 * thread-local storage, no data but PROGRAM_PARAMETERS at its fixed address,
 * nothing to return to. So every helper is inlined, and there are no string
 * constants, tables or globals: the code must not refer to anything outside
 * its section. tests/test_core_objects.py looks at the compiled result.
 */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/resource.h>

#include "inline.h"
#include "programs.h"

#ifndef CLONE_NEWUSER
#define CLONE_NEWUSER 0x10000000
#endif

#if defined(__x86_64__)
/* The kernel starts a program with an aligned stack, a caller would not. */
#define ENTRY __attribute__((noinline, used, noreturn, force_align_arg_pointer))
#else
#define ENTRY __attribute__((noinline, used, noreturn))
#endif

#define PROGRAM(name) \
	static ENTRY __attribute__((section("usernsproc_" #name))) void name(void)

/* The address is a constant of the image; hidden from the optimizer, which
 * would take it for a mistake. */
RAW_INLINE const void *parameters(void)
{
	uintptr_t address = PROGRAM_PARAMETERS;

	__asm__("" : "+r"(address));
	return (const void *)address;
}

/* Park until killed, or until the creating process has ended. The name is set
 * last: it says that all is as it will stay. */
PROGRAM(holder)
{
	const struct holder_parameters *own = parameters();
	struct rlimit no_core;
	struct pollfd lifeline;

	no_core.rlim_cur = no_core.rlim_max = 0;
	RAW4(prlimit64, 0, RLIMIT_CORE, &no_core, 0);
	if (!own->has_lifeline)
		RAW1(close, 0);
	RAW2(prctl, PR_SET_NAME, own->name);
	while (own->has_lifeline) {
		lifeline.fd = 0;
		lifeline.events = POLLIN;
		lifeline.revents = 0;
		if (RAW5(ppoll, &lifeline, 1, 0, 0, KERNEL_SIGSET_SIZE) > 0)
			leave(0);
	}
	for (;;)
		RAW5(ppoll, 0, 0, 0, 0, KERNEL_SIGSET_SIZE);
}

RAW_INLINE void tell(int fd, enum step step, long result)
{
	struct failure failure;

	failure.step = step;
	failure.error = (int32_t)-result;
	RAW3(write, fd, &failure, sizeof(failure));
	if (step != STEP_none)
		leave(255);
}

RAW_INLINE long take_ids(const struct credentials *ids)
{
	long result = 0;

	if (ids->set_groups)
		result = RAW2(setgroups, ids->group_count, ids->groups);
	if (result == 0 && ids->set_gid)
		result = RAW3(setresgid, ids->gid, ids->gid, ids->gid);
	if (result == 0 && ids->set_uid)
		result = RAW3(setresuid, ids->uid, ids->uid, ids->uid);
	return result;
}

/* Take the ids, then execute the command. */
PROGRAM(launcher)
{
	const struct launcher_parameters *own = parameters();
	long result;

	result = RAW3(fcntl, own->report, F_SETFD, FD_CLOEXEC);
	if (result == 0 && own->death.parent_pidfd >= 0)
		result = RAW3(fcntl, own->death.parent_pidfd, F_SETFD, FD_CLOEXEC);
	if (result < 0)
		tell(own->report, STEP_stdio, result);
	if (own->privileges.ambient) /* only kept by this when inside 0 becomes another */
		RAW5(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
	result = take_ids(&own->credentials);
	if (result < 0)
		tell(own->report, STEP_setid, result);
	result = keep_over_exec(own->privileges.ambient); /* and no others */
	if (result < 0)
		tell(own->report, STEP_capabilities, result);
	result = refuse_new_privileges(&own->privileges);
	if (result < 0)
		tell(own->report, STEP_no_new_privs, result);
	/* After the ids: changing them clears it. */
	die_with_parent(&own->death, own->death.signal);
	RAW2(prctl, PR_SET_NAME, own->name);
	tell(own->report, STEP_none, 0);
	set_signal_mask(own->signal_mask);
	tell(own->report, STEP_exec, -execute(&own->command));
	leave(255);
}

RAW_INLINE void put(int to, const void *data, long size)
{
	long result = RAW3(write, to, data, size);

	if (result < 0)
		tell(to, STEP_read_map, result);
}

RAW_INLINE void copy_file(const char *path, int to)
{
	char buffer[512];
	long from = RAW4(openat, AT_FDCWD, path, O_RDONLY, 0), length;

	if (from < 0)
		tell(to, STEP_read_map, from);
	while ((length = RAW3(read, from, buffer, sizeof(buffer))) > 0)
		put(to, buffer, length);
	if (length < 0)
		tell(to, STEP_read_map, length);
	RAW1(close, from);
}

/* Enter the user namespace on fd 0 and write its maps to fd 1, and last whether
 * that has worked. Whoever is root
 * in there may not look at us: this memory belongs to the outer namespace and
 * is made non-dumpable before we enter. */
PROGRAM(map_reader)
{
	const struct map_reader_parameters *own = parameters();
	const struct failure none = {STEP_none, 0};
	char separator = 0;
	long result;

	RAW2(prctl, PR_SET_DUMPABLE, 0);
	result = RAW2(setns, 0, CLONE_NEWUSER);
	if (result < 0)
		tell(1, STEP_setns, result);
	copy_file(own->uid_map, 1);
	put(1, &separator, 1);
	copy_file(own->gid_map, 1);
	put(1, &none, sizeof(none));
	leave(0);
}

#define CODE(name)                                                                          \
	extern const char __start_usernsproc_##name[] __attribute__((visibility("hidden"))); \
	extern const char __stop_usernsproc_##name[] __attribute__((visibility("hidden")));
CODE(holder)
CODE(launcher)
CODE(map_reader)

static struct code code_of(const char *start, const char *stop, void (*entry)(void))
{
	struct code code = {
		.start = start,
		.size = (size_t)(stop - start),
		.entry = (size_t)((const char *)(uintptr_t)entry - start),
	};
	return code;
}

struct code program_code(enum program program)
{
	if (program == PROGRAM_HOLDER)
		return code_of(__start_usernsproc_holder, __stop_usernsproc_holder, holder);
	if (program == PROGRAM_LAUNCHER)
		return code_of(__start_usernsproc_launcher, __stop_usernsproc_launcher, launcher);
	return code_of(__start_usernsproc_map_reader, __stop_usernsproc_map_reader, map_reader);
}

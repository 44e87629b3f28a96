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

#include "beneath.h"
#include "launcher.h"
#include "programs.h"

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

PROGRAM(holder)
{
	hold(parameters());
}

PROGRAM(launcher)
{
	launch(parameters());
}

/* ---- the map reader ---- */

RAW_INLINE void tell_step(int to, enum step step, long result)
{
	struct failure failure;

	failure.step = step;
	failure.error = (int32_t)-result;
	RAW3(write, to, &failure, sizeof(failure));
	leave(255);
}

RAW_INLINE void put(int to, const void *data, long size)
{
	long result = RAW3(write, to, data, size);

	if (result < 0)
		tell_step(to, STEP_read_map, result);
}

RAW_INLINE void copy_file(int proc, const char *path, int to)
{
	char buffer[512];
	long from = open_beneath(proc, path, O_RDONLY), length;

	if (from < 0)
		tell_step(to, from == -EXDEV ? STEP_open_proc : STEP_read_map, from);
	while ((length = RAW3(read, from, buffer, sizeof(buffer))) > 0)
		put(to, buffer, length);
	if (length < 0)
		tell_step(to, STEP_read_map, length);
	RAW1(close, from);
}

/* Enter the user namespace on fd 0 and write to fd 1 its maps, what it says of
 * setgroups, and last whether that has worked. fd 2 is the root of a procfs that
 * the parent has proven. Root in the namespace cannot look at this program: its memory
 * belongs to the outer namespace and is made non-dumpable before it enters. */
PROGRAM(map_reader)
{
	const struct map_reader_parameters *own = parameters();
	const struct failure none = {STEP_none, 0};
	char separator = 0;
	long result;

	RAW2(prctl, PR_SET_DUMPABLE, 0);
	result = RAW2(setns, 0, CLONE_NEWUSER);
	if (result < 0)
		tell_step(1, STEP_setns, result);
	for (int i = 0; i < 3; i++) {
		if (i)
			put(1, &separator, 1);
		copy_file(2, own->files[i], 1);
	}
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

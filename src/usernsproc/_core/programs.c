/* Programs that run alone, in memory that holds nothing else.
 *
 * Each is one function in a section of its own, and a few instructions that call it.
 * Its bytes are copied into an ELF image at run time (image.c) and started by the
 * kernel: no libc, no thread-local storage, no data but at PROGRAM_PARAMETERS
 * and on the stack, nothing to return to. So every helper is inlined, and
 * there are no string constants, tables or globals: the code must not refer to anything
 * outside its section. tests/test_core_objects.py looks at the compiled result.
 */
#include <fcntl.h>

#include "beneath.h"
#include "launcher.h"

#define PROGRAM(name)                                                                          \
	__asm__(".pushsection usernsproc_" #name ", \"ax\", @progbits\n"                       \
		"usernsproc_enter_" #name ":\n\t" RAW_ENTRY("usernsproc_run_" #name) ".popsection"); \
	extern const char usernsproc_enter_##name[] __attribute__((visibility("hidden")));     \
	static void usernsproc_run_##name(const struct start *start) __asm__("usernsproc_run_" #name); \
	__attribute__((section("usernsproc_" #name), noinline, used, noreturn))                \
	static void usernsproc_run_##name(__attribute__((unused)) const struct start *start)

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
	launch(start);
}

/* ---- the map reader ---- */

RAW_INLINE __attribute__((noreturn)) void report_step(int to, enum step step, long result)
{
	struct report report;

	report.step = step;
	report.error = (int32_t)-result;
	report.pid = 0;
	RAW3(write, to, &report, sizeof(report));
	leave(255);
}

RAW_INLINE void put(int to, const void *data, long size)
{
	long result = RAW3(write, to, data, size);

	if (result != size)
		report_step(to, STEP_read_map, result < 0 ? result : -EIO);
}

RAW_INLINE void copy_file(int proc, const char *path, int to)
{
	char buffer[512];
	long from = open_beneath(proc, path, O_RDONLY), length;

	if (from < 0)
		report_step(to, from == -EXDEV ? STEP_open_proc : STEP_read_map, from);
	while ((length = RAW3(read, from, buffer, sizeof(buffer))) > 0)
		put(to, buffer, length);
	if (length < 0)
		report_step(to, STEP_read_map, length);
	RAW1(close, from);
}

/* Enter the user namespace on fd 0 and write to fd 1 its maps, what it says of
 * setgroups, and last whether that has worked. fd 2 is the root of a procfs that
 * the parent has proven. Root in the namespace cannot look at this program: its memory
 * belongs to the outer namespace and is made non-dumpable before it enters. */
PROGRAM(map_reader)
{
	const struct map_reader_parameters *own = parameters();
	char separator = 0;
	long result;

	RAW2(prctl, PR_SET_DUMPABLE, 0);
	result = RAW2(setns, 0, CLONE_NEWUSER);
	if (result < 0)
		report_step(1, STEP_setns, result);
	for (int i = 0; i < 3; i++) {
		if (i)
			put(1, &separator, 1);
		copy_file(2, own->files[i], 1);
	}
	report_step(1, STEP_none, 0);
}

#define CODE(name)                                                                          \
	extern const char __start_usernsproc_##name[] __attribute__((visibility("hidden"))); \
	extern const char __stop_usernsproc_##name[] __attribute__((visibility("hidden")));
CODE(holder)
CODE(launcher)
CODE(map_reader)

#define CODE_OF(name)                                                                       \
	(struct code){.start = __start_usernsproc_##name,                                    \
		      .size = (size_t)(__stop_usernsproc_##name - __start_usernsproc_##name), \
		      .entry = (size_t)(usernsproc_enter_##name - __start_usernsproc_##name)}

struct code program_code(enum program program)
{
	if (program == PROGRAM_HOLDER)
		return CODE_OF(holder);
	return program == PROGRAM_LAUNCHER ? CODE_OF(launcher) : CODE_OF(map_reader);
}

/* Programs that run alone, in memory that holds nothing else.
 *
 * Each is one function in a section of its own, and a few instructions that call it.
 * Its bytes are copied into an ELF image at run time (image.c) and started by the
 * kernel: no libc, no thread-local storage, no data but at PROGRAM_PARAMETERS
 * and on the stack, nothing to return to. So every helper is inlined, and
 * there are no string constants, tables or globals: the code must not refer to anything
 * outside its section. tests/test_core_objects.py looks at the compiled result.
 */
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

#define CODE(name)                                                                          \
	extern const char __start_usernsproc_##name[] __attribute__((visibility("hidden"))); \
	extern const char __stop_usernsproc_##name[] __attribute__((visibility("hidden")));
CODE(holder)
CODE(launcher)

#define CODE_OF(name)                                                                       \
	(struct code){.start = __start_usernsproc_##name,                                    \
		      .size = (size_t)(__stop_usernsproc_##name - __start_usernsproc_##name), \
		      .entry = (size_t)(usernsproc_enter_##name - __start_usernsproc_##name)}

struct code program_code(enum program program)
{
	return program == PROGRAM_HOLDER ? CODE_OF(holder) : CODE_OF(launcher);
}

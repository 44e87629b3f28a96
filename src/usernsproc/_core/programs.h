/* The code of the tiny programs, as bytes to be copied. */
#ifndef USERNSPROC_PROGRAMS_H
#define USERNSPROC_PROGRAMS_H

#include <stddef.h>

#include "core.h"

struct code {
	const char *start;
	size_t size, entry; /* entry: offset of the first instruction */
};

struct code program_code(enum program program);

#endif

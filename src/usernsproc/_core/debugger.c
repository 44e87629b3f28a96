/* Whether a debugger follows this program.
 *
 * A child that shares the caller's memory and has no exit signal is a thread to gdb and lldb: the
 * kernel reports it as one (PTRACE_EVENT_CLONE). When it executes a program they take that
 * for the whole process, and lose this one. As if it had been forked (exit signal SIGCHLD)
 * they would remove their breakpoints from its memory, which is the caller's. So it is kept from
 * them. strace -f and the like follow it as before.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proven_proc.h"
#include "wait.h"

/* A debugger that attaches later is noticed after so long. */
#define LOOK_NANOSECONDS 100000000

static int read_start(const char *path, char *text, size_t size)
{
	int fd = open_proc(path, O_RDONLY);
	ssize_t length = fd < 0 ? -1 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	text[length > 0 ? length : 0] = 0;
	return length > 0;
}

static int tracer_pid(void)
{
	char text[512], *line = NULL;

	if (read_start("self/status", text, sizeof(text)))
		line = strstr(text, "\nTracerPid:");
	return line ? atoi(line + strlen("\nTracerPid:")) : 0;
}

static int has_debugger(void)
{
	char path[32], name[32];
	int tracer = tracer_pid();

	if (!tracer)
		return 0;
	snprintf(path, sizeof(path), "%d/comm", tracer);
	if (!read_start(path, name, sizeof(name)))
		return 0;
	return strncmp(name, "gdb", 3) == 0 || strncmp(name, "lldb", 4) == 0;
}

unsigned long flag_against_debugger(void)
{
	static int64_t looked_at;
	static int found;
	int64_t time = now();

	if (time - __atomic_load_n(&looked_at, __ATOMIC_ACQUIRE) > LOOK_NANOSECONDS) {
		__atomic_store_n(&found, has_debugger(), __ATOMIC_RELEASE);
		__atomic_store_n(&looked_at, time, __ATOMIC_RELEASE);
	}
	return __atomic_load_n(&found, __ATOMIC_ACQUIRE) ? CLONE_UNTRACED : 0;
}

/* A launcher's side of the socket to its parent, which is in report.c: what it is sent, and
 * what it reports. It follows the rules of programs.c.
 */
#ifndef USERNSPROC_LAUNCHER_SOCKET_H
#define USERNSPROC_LAUNCHER_SOCKET_H

#include <sched.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "become.h"
#include "inline.h"

/* ---- what it is sent ---- */

RAW_INLINE long wait_until_readable(int fd)
{
	struct pollfd input;
	volatile struct pollfd *fields = &input; /* one by one, without a constant of the compiler's */

	fields->fd = fd;
	fields->events = POLLIN;
	fields->revents = 0;
	return RAW5(ppoll, &input, 1, 0, 0, KERNEL_SIGSET_SIZE);
}

RAW_INLINE long report_to(int socket, enum step step, long result)
{
	struct report report;

	report.step = step;
	report.error = (int32_t)-result;
	report.pid = 0;
	result = RAW3(write, socket, &report, sizeof(report));
	return step == STEP_none && result == (long)sizeof(report) ? 0 : -1;
}

/* 0: the parent gave up, and receives nothing. */
RAW_INLINE void leave_with_error(int socket, long result)
{
	if (result < 0)
		report_to(socket, STEP_prepare, result);
	leave(255);
}

/* The next message of the parent, which closes its end when it gives up. */
RAW_INLINE long receive(int socket, void *buffer, long size)
{
	for (int look = 0;; look++) {
		long length = RAW3(read, socket, buffer, size);

		if (length > 0)
			return length;
		if (length != -EAGAIN && length != -EINTR)
			leave_with_error(socket, length);
		if (look < SPINS)
			RAW0(sched_yield);
		else
			wait_until_readable(socket);
	}
}

RAW_INLINE void wait_for_parent(const struct launcher_parameters *own)
{
	char byte;

	if (own->becomes)
		return;
	receive(own->socket, &byte, 1);
}

/* For what does not fit on the stack. */
RAW_INLINE char *more_memory(int socket, uint64_t size)
{
	uint64_t start = (uint64_t)RAW1(brk, 0);

	if ((uint64_t)RAW1(brk, start + size) != start + size)
		leave_with_error(socket, -ENOMEM);
	return (char *)start;
}

RAW_INLINE const void *address_in(const void *block, const volatile void *offset)
{
	return (const char *)block + (uintptr_t)offset;
}

/* Its pointers are offsets until here. */
RAW_INLINE void set_pointers(struct launcher_parameters *block)
{
	char *volatile *candidates = (char *volatile *)(uintptr_t)address_in(block, block->candidates);

	block->namespaces.joins = address_in(block, block->namespaces.joins);
	block->setup.calls = address_in(block, block->setup.calls);
	block->setup.data = (char *)(uintptr_t)address_in(block, block->setup.data);
	block->setup.fds.fds = (int *)(uintptr_t)address_in(block, block->setup.fds.fds);
	block->candidates = (char *const *)(uintptr_t)candidates;
	block->messages = address_in(block, block->messages);
	for (; *candidates; candidates++)
		*candidates = (char *)(uintptr_t)address_in(block, *candidates);
}

RAW_INLINE const struct launcher_parameters *receive_parameters(int socket, char first[LAUNCHER_FIRST_CHUNK])
{
	uint64_t length = (uint64_t)receive(socket, first, LAUNCHER_FIRST_CHUNK);
	uint64_t size = ((volatile struct launcher_parameters *)first)->size;
	char *block = first;

	if (length < size) {
		block = more_memory(socket, size);
		for (uint64_t i = 0; i < length; i++)
			((volatile char *)block)[i] = first[i];
	}
	while (length < size)
		length += (uint64_t)receive(socket, block + length, LAUNCHER_CHUNK);
	set_pointers((struct launcher_parameters *)block);
	return (const struct launcher_parameters *)block;
}

/* What the kernel puts on the stack: the number of arguments, these, a NULL, the environment.
 * The first argument ends with the number of the socket, the others are the command's. */
struct start {
	long argc;
	char *argv[];
};

RAW_INLINE int socket_of(const struct start *start)
{
	volatile char *letter = start->argv[0];
	int fd = 0;

	while (*letter < '0' || *letter > '9')
		letter++;
	for (; *letter; letter++) {
		fd = fd * 10 + (*letter - '0');
		*letter = '0'; /* what ps(1) shows is always the same */
	}
	return fd;
}

/* ---- what it reports ---- */

RAW_INLINE void report(const struct launcher_parameters *own, enum step step, long result)
{
	if (own->becomes && step == STEP_none)
		return;
	if (own->becomes)
		leave_with_message(own->messages, (unsigned)own->setup.count, step, (int)-result);
	if (report_to(own->socket, step, result) < 0) /* the end of the socket shows it, too */
		leave(255);
}

RAW_INLINE void must(const struct launcher_parameters *own, enum step step, long result)
{
	if (result < 0)
		report(own, step, result);
}

/* That another child of the same parent continues, with its pidfd. */
RAW_INLINE void report_second_process(const struct launcher_parameters *own, long pid, int pidfd)
{
	struct report report;
	struct iovec part;
	struct msghdr message;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	/* Written field by field, without a constant of the compiler's in between. */
	volatile struct cmsghdr *header = &control.header;
	volatile unsigned char *raw = (volatile unsigned char *)&message;

	for (unsigned i = 0; i < sizeof(message); i++)
		raw[i] = 0;
	report.step = STEP_none;
	report.error = 0;
	report.pid = (int32_t)pid;
	part.iov_base = &report;
	part.iov_len = sizeof(report);
	message.msg_iov = &part;
	message.msg_iovlen = 1;
	message.msg_control = &control;
	message.msg_controllen = sizeof(control);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	*(volatile int *)CMSG_DATA(&control.header) = pidfd;
	must(own, STEP_clone, RAW3(sendmsg, own->socket, &message, 0));
}

/* ---- what it knows of the command ---- */

RAW_INLINE int command_leaves_group(const struct launcher_parameters *own)
{
	const struct setup *setup = &own->setup;

	for (int32_t i = setup->ends[FOR_INIT_AND_COMMAND]; i < setup->ends[FOR_COMMAND]; i++)
		if (setup->calls[i].number == __NR_setsid || setup->calls[i].number == __NR_setpgid)
			return 1;
	return 0;
}

/* ---- its other descriptors ---- */

RAW_INLINE void close_all_from(const struct launcher_parameters *own, unsigned first)
{
	must(own, STEP_stdio, close_descriptors(first, ~0u, own->proc));
	if (own->proc >= 0)
		RAW1(close, own->proc);
}

#endif

/* The calling program as the launcher: it has executed it itself, and nothing waits for it. It follows the rules of
 * programs.c.
 *
 * The messages are texts, each with a NUL behind it. First three for each place, a step of STEPS or a call of the set-up:
 * what precedes the text of the error, what precedes its name, and what follows that. Then two for each errno from 1 on: its
 * text and its name; the last two are for errnos that are not known, and an empty text follows. Then four for each cause
 * that is known in advance: the numbers of the place and the errno, the name, and what follows it; and an empty text.
 */
#ifndef USERNSPROC_BECOME_H
#define USERNSPROC_BECOME_H

#include <sys/uio.h>

#include "inline.h"

#define STATUS_FAILED 125
#define STATUS_NOT_EXECUTABLE 126
#define STATUS_NOT_FOUND 127

RAW_INLINE long length_of(const volatile char *text)
{
	long length = 0;

	while (text[length])
		length++;
	return length;
}

RAW_INLINE const char *skip_texts(const char *text, unsigned count)
{
	while (count--)
		text += length_of(text) + 1;
	return text;
}

RAW_INLINE void put_text(struct iovec *part, const char *text)
{
	part->iov_base = (void *)(uintptr_t)text;
	part->iov_len = (size_t)length_of(text);
}

RAW_INLINE int is_number(const volatile char *text, unsigned number)
{
	unsigned value = 0;

	for (; *text; text++)
		value = value * 10 + (unsigned)(*text - '0');
	return value == number;
}

enum { BEFORE_TEXT, TEXT, BEFORE_NAME, NAME, BRACKET, NOTE, NEWLINE, PARTS_OF_MESSAGE };

/* By one call: other processes write to standard error, too. Whether that works does not matter. */
RAW_INLINE __attribute__((noreturn)) void leave_with_message(const char *messages, unsigned calls, enum step step, int error)
{
	unsigned places = STEP_COUNT + calls, place = (unsigned)step < places ? (unsigned)step : STEP_none;
	const char *text = skip_texts(messages, 3 * place), *known;
	struct iovec line[PARTS_OF_MESSAGE];
	char end[2];

	put_text(&line[BEFORE_TEXT], text);
	put_text(&line[BEFORE_NAME], skip_texts(text, 1));
	put_text(&line[NOTE], skip_texts(text, 2));
	text = skip_texts(messages, 3 * places);
	for (int number = 1; *text; number++, text = skip_texts(text, 2)) {
		if (number > error)
			continue;
		put_text(&line[TEXT], text);
		put_text(&line[NAME], skip_texts(text, 1));
	}
	for (known = skip_texts(text, 1); *known; known = skip_texts(known, 4)) {
		if (!is_number(known, place) || !is_number(skip_texts(known, 1), (unsigned)error))
			continue;
		put_text(&line[NAME], skip_texts(known, 2));
		put_text(&line[NOTE], skip_texts(known, 3));
	}
	((volatile char *)end)[0] = ']';
	((volatile char *)end)[1] = '\n';
	line[BRACKET].iov_base = end;
	line[NEWLINE].iov_base = end + 1;
	line[BRACKET].iov_len = line[NEWLINE].iov_len = 1;
	set_signal_mask(~(uint64_t)0); /* SIGPIPE */
	RAW3(writev, 2, line, PARTS_OF_MESSAGE);
	if (step != STEP_exec)
		leave(STATUS_FAILED);
	leave(error == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE);
}

/* Where a process remains above the command, signals are its own. Elsewhere they do what they will do in the command. */
RAW_INLINE void begin_to_become(const struct launcher_parameters *own, int parameters)
{
	RAW1(close, parameters);
	if (own->restores_signals) {
		handle(SIGPIPE, SIG_DFL);
		handle(SIGXFSZ, SIG_DFL);
	}
	if (!own->monitors)
		set_signal_mask(own->signal_mask);
}

/* The calling process: "0". */
RAW_INLINE long move_into_cgroup(int cgroup, const char *file)
{
	char itself = '0';
	long fd = open_beneath(cgroup, file, O_WRONLY), result;

	if (fd < 0)
		return fd;
	result = RAW3(write, fd, &itself, 1);
	RAW1(close, fd);
	return result;
}

/* One that it is to end with. The calling program has the parent that it had. */
RAW_INLINE int has_parent(const struct launcher_parameters *own)
{
	return !own->becomes || own->monitors;
}

#endif

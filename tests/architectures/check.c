#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "rawsys.h"

static struct tally {
	int passed, failed;
} *tally;

void start_counting(void)
{
	tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void tell_result(void)
{
	printf("%d passed, %d failed\n", tally->passed, tally->failed);
	fflush(stdout);
}

int check(int good, const char *subject, const char *what)
{
	good ? tally->passed++ : tally->failed++;
	printf("%s  %s: %s\n", good ? "ok    " : "FAILED", subject, what);
	fflush(stdout);
	return good;
}

void check_text(const char *got, const char *wanted, const char *subject, const char *what)
{
	if (!check(strcmp(got, wanted) == 0, subject, what))
		printf("        got    %s\n        wanted %s\n", got, wanted);
}

int check_outcome(long result, const struct failure *failure, enum step step, int error,
		  const char *subject)
{
#define STEP_NAME(name) #name,
	static const char *const names[] = {STEPS(STEP_NAME)};
	char what[64] = "no error";
	int good = result >= 0;

	if (step != STEP_none) {
		good = result < 0 && failure->step == (int)step && failure->error == error;
		snprintf(what, sizeof(what), "the error is reported, %s", step < STEP_COUNT ? names[step] : "a call");
	}
	if (!check(good, subject, what))
		printf("        result %ld, step %d, %s\n", result, (int)failure->step,
		       strerror(failure->error));
	return good;
}

void look(struct traces *traces)
{
	memset(traces, 0, sizeof(*traces));
	strcpy(traces->descriptors, names_in("/proc/self/fd"));
	strcpy(traces->threads, names_in("/proc/self/task"));
	RAW4(rt_sigprocmask, SIG_BLOCK, 0, &traces->mask, sizeof(traces->mask));
}

void check_nothing_left(const struct traces *before, const char *subject)
{
	struct traces now;
	siginfo_t info;

	check(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 && errno == ECHILD, subject,
	      "no child is left");
	look(&now);
	check_text(now.descriptors, before->descriptors, subject, "no descriptor is left");
	check_text(now.threads, before->threads, subject, "no thread is left");
	check(now.mask == before->mask, subject, "no signal is left blocked");
}

const char *squeeze(char *text)
{
	char *to = text;

	for (const char *from = text + strspn(text, " \t\n"); *from;) {
		size_t word = strcspn(from, " \t\n");

		memmove(to, from, word);
		to += word;
		from += word;
		from += strspn(from, " \t\n");
		if (*from)
			*to++ = ' ';
	}
	*to = 0;
	return text;
}

const char *contents(const char *path)
{
	static char text[8192];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[length < 0 ? 0 : length] = 0;
	return squeeze(text);
}

const char *contents_of(pid_t pid, const char *file)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	return contents(path);
}

const char *status(const char *text, const char *name)
{
	static char word[64];
	const char *at = strstr(text, name);

	if (!at || sscanf(at + strlen(name), ": %63s", word) != 1)
		return "?";
	return word;
}

const char *names_in(const char *path)
{
	static char list[512];
	size_t length = 0;
	struct dirent **entries;
	int count = scandir(path, &entries, NULL, versionsort);

	list[0] = 0;
	for (int i = 0; i < count; i++) {
		const char *name = entries[i]->d_name;
		char entry[sizeof(list)], target[64];

		snprintf(entry, sizeof(entry), "%s/%s", path, name);
		/* What read the directory is closed by now. */
		if (name[0] != '.' && (readlink(entry, target, sizeof(target)) >= 0 || errno == EINVAL))
			length += (size_t)snprintf(list + length, sizeof(list) - length, "%s%s",
						   length ? " " : "", name);
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
	return list;
}

void forget_old_code(void)
{
	size_t size = 8 << 20;
	volatile uint64_t *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		exit(1);
	for (size_t i = 0; i < size / sizeof(*pages); i++)
		pages[i] = ~0ull;
	munmap((void *)pages, size);
}

int ends_within(int pidfd, int milliseconds)
{
	struct pollfd process = {.fd = pidfd, .events = POLLIN};

	return poll(&process, 1, milliseconds) == 1 && process.revents & POLLIN;
}

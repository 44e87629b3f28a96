/* See wait.h. */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "rawsys.h"
#include "wait.h"

#define NANOSECONDS 1000000000
#define MILLISECOND 1000000

/* A sleep lasts no longer: a signal may reach another thread of the program, and a
 * stop wakes no descriptor. */
#define USUAL_SLICE 20000000

int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * NANOSECONDS + time.tv_nsec;
}

static int is_readable_within(int fd, int milliseconds)
{
	struct pollfd input = {.fd = fd, .events = POLLIN};
	int64_t deadline = milliseconds ? now() + (int64_t)milliseconds * MILLISECOND : 0;
	int result;

	/* A signal interrupts even a look that does not wait, and signals that keep coming must not prolong it. */
	while ((result = poll(&input, 1, milliseconds)) < 0 && errno == EINTR) {
		int64_t left = deadline ? deadline - now() : 0;

		milliseconds = left > 0 ? (int)(left / MILLISECOND) : 0;
	}
	return result > 0;
}

int has_ended_within(int pidfd, int milliseconds)
{
	return is_readable_within(pidfd, milliseconds);
}

/* A zombie answers signal 0, so only poll(2) says whether it still runs. */
int has_ended(int pidfd)
{
	return has_ended_within(pidfd, 0);
}

/* Whether it was stopped. Only its parent can see that. */
static int continue_if_stopped(int pidfd)
{
	siginfo_t info;

	info.si_pid = 0;
	if (waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WSTOPPED | WNOHANG | WNOWAIT | __WALL) < 0 ||
	    !info.si_pid)
		return 0;
	RAW4(pidfd_send_signal, pidfd, SIGCONT, 0, 0);
	return 1;
}

static int give_up(struct failure *failure, enum step step, int error)
{
	fail(failure, step, error);
	failure->gave_up = 1;
	return -1;
}

/* Looks at all that may end the patience. */
static int is_over(const struct patience *patience, enum step step, struct failure *failure)
{
	if (patience->run_signal_handlers && patience->run_signal_handlers(patience->context))
		return give_up(failure, step, EINTR);
	if (patience->cancelled >= 0 && is_readable_within(patience->cancelled, 0))
		return give_up(failure, step, ECANCELED);
	if (patience->deadline && now() >= patience->deadline)
		return give_up(failure, step, ETIMEDOUT);
	return 0;
}

static struct timespec slice_of(const struct event *event, const struct patience *patience)
{
	int64_t slice = event->slice ? event->slice : USUAL_SLICE;

	if (patience->deadline) {
		int64_t left = patience->deadline - now();

		slice = left < 0 ? 0 : left < slice ? left : slice;
	}
	return (struct timespec){.tv_nsec = slice}; /* less than a second */
}

enum woken { BY_NOTHING, BY_EVENT, BY_END };

static enum woken sleep_on_word(const struct event *event, int32_t seen, struct timespec slice)
{
	struct {
		int64_t seconds, nanoseconds;
	} limit = {slice.tv_sec, slice.tv_nsec};

	/* Kernels before 5.16 do not wake after a core dump, hence the look at the pidfd. */
	if (RAW4(futex, event->word, FUTEX_WAIT, seen, &limit) == 0)
		return BY_EVENT;
	return has_ended(event->pidfd) ? BY_END : BY_NOTHING;
}

static enum woken sleep_on_descriptors(const struct event *event, int cancelled, struct timespec slice)
{
	struct pollfd ends[3] = {{.fd = event->pidfd, .events = POLLIN},
				 {.fd = event->socket, .events = event->wakes},
				 {.fd = cancelled, .events = POLLIN}};

	int milliseconds = (int)(slice.tv_nsec / MILLISECOND);

	if (milliseconds == 0) /* less than poll(2) can wait */
		nanosleep(&slice, NULL);
	if (poll(ends, 3, milliseconds) <= 0)
		return BY_NOTHING;
	if (ends[0].revents)
		return BY_END;
	return ends[1].revents ? BY_EVENT : BY_NOTHING;
}

static enum woken sleep_for(const struct event *event, int32_t seen, const struct patience *patience)
{
	struct timespec slice = slice_of(event, patience);

	return event->word ? sleep_on_word(event, seen, slice)
			   : sleep_on_descriptors(event, patience->cancelled, slice);
}

enum wait_result wait_for(const struct event *event, const struct patience *patience, struct failure *failure)
{
	enum woken woken = BY_NOTHING;
	int stops = 0;

	for (int look = 0;; look++) {
		int32_t seen = event->word ? __atomic_load_n(event->word, __ATOMIC_ACQUIRE) : 0;

		if (event->has_happened(event->context))
			return WAIT_HAPPENED;
		if (woken == BY_END) /* and has been looked for once more */
			return WAIT_ENDED;
		if (look < event->spins) {
			sched_yield();
			continue;
		}
		woken = sleep_for(event, seen, patience);
		if (woken != BY_NOTHING)
			continue;
		if (is_over(patience, event->step, failure) < 0)
			return WAIT_GAVE_UP;
		if (continue_if_stopped(event->pidfd) && ++stops > MAX_STOPS)
			return (enum wait_result)fail(failure, STEP_on_created, ESRCH);
	}
}

/* The child of clone(CLONE_VM), in the parent's memory.
 *
 * Contract of everything in this file:
 *   - it runs on a stack of its own but shares every other byte with the
 *     parent, the calling thread's thread-local storage included;
 *   - so: no Python, no libc, no allocation, no lock, no errno; raw system
 *     calls on what the parent has prepared, nothing else;
 *   - all signals are blocked from before the clone, and are let in again only
 *     when no handler of the parent's is installed any more;
 *   - it writes only to its own `struct child`;
 *   - it waits for nothing but its maps, which the parent writes at once: to the
 *     kernel it is a part of the calling program, whom the out-of-memory killer
 *     would kill with it, and whose oom_score_adj is changed with its own;
 *   - it changes no ids: in shared memory that would make the parent
 *     non-dumpable. The launcher (programs.c) does it after an exec.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <stdint.h>

#include "child.h"
#include "inline.h"

#define SIGNALS 64

static void give_up(struct child *child, enum step step, long result)
{
	child->failure.error = (int32_t)-result;
	__atomic_store_n(&child->failure.step, step, __ATOMIC_RELEASE);
	leave(255);
}

static void must(struct child *child, enum step step, long result)
{
	if (result < 0)
		give_up(child, step, result);
}

void transient_child(void *argument)
{
	struct child *child = argument;

	die_with_parent(&child->death, SIGKILL);
	for (;;)
		RAW5(ppoll, 0, 0, 0, 0, KERNEL_SIGSET_SIZE);
}

/* A handler of the parent's must not run here, in its memory. */
static void reset_caught_signals(void)
{
	for (long signal = 1; signal <= SIGNALS; signal++) {
		struct kernel_sigaction action;

		if (RAW4(rt_sigaction, signal, 0, &action, KERNEL_SIGSET_SIZE) == 0 &&
		    action.handler != (uintptr_t)SIG_DFL && action.handler != (uintptr_t)SIG_IGN)
			handle(signal, SIG_DFL);
	}
}

static void set_up_signals(const struct child *child, int executes_image)
{
	const struct plan *plan = &child->plan;

	if (plan->is_helper) {
		for (long signal = 1; signal <= SIGNALS; signal++)
			handle(signal, SIG_DFL);
		handle(SIGCHLD, SIG_IGN); /* a holder may be pid 1 of its namespace: no zombies */
		return;
	}
	/* exec itself resets caught signals, and a launcher keeps all
	 * signals blocked until then. */
	if (!executes_image && child->has_handlers)
		reset_caught_signals();
	if (plan->restore_signals) { /* what the Python runtime ignores */
		handle(SIGPIPE, SIG_DFL);
		handle(SIGXFSZ, SIG_DFL);
	}
}

static int out_of_the_way(struct child *child, int from, int to)
{
	/* 0, 1 and 2 are filled in this order: move a source out of the way of
	 * an earlier target. */
	while (from >= 0 && from < to) {
		long copy = RAW3(fcntl, from, F_DUPFD_CLOEXEC, 3);
		must(child, STEP_stdio, copy);
		from = (int)copy;
	}
	return from;
}

static void set_up_stdio(struct child *child)
{
	const int *stdio = child->plan.stdio;
	int sources[3];

	for (int to = 0; to < 3; to++)
		sources[to] = out_of_the_way(child, stdio[to], to);
	for (int to = 0; to < 3; to++) {
		if (sources[to] == to) /* dup3() refuses; all it lacks is inheritance */
			must(child, STEP_stdio, RAW3(fcntl, to, F_SETFD, 0));
		else if (sources[to] != -1) /* another negative number is refused here */
			must(child, STEP_stdio, RAW3(dup3, sources[to], to, 0));
	}
}

static void close_between(struct child *child, unsigned first, unsigned last)
{
	if (first <= last)
		must(child, STEP_stdio, close_descriptors(first, last, child->proc));
}

/* What is not the command's: six, the namespaces to enter, and what its set-up uses. */
enum { OWN_DESCRIPTORS = 6 };

static int own_count(const struct child *child)
{
	return OWN_DESCRIPTORS + (int)child->plan.namespaces.join_count + child->plan.setup.fds.count;
}

static int own_descriptor(const struct child *child, int i)
{
	const int own[OWN_DESCRIPTORS] = {child->image,	 child->socket, child->death.parent_pidfd,
					  child->cgroup, child->proc,	child->init_socket};
	int join_count = (int)child->plan.namespaces.join_count;

	if (i < OWN_DESCRIPTORS)
		return own[i];
	i -= OWN_DESCRIPTORS;
	return i < join_count ? child->plan.namespaces.joins[i].fd : child->plan.setup.fds.fds[i - join_count];
}

/* Close what lies in a gap between two kept descriptors, but not those that are the
 * child's own: few, looked for one by one. */
static void close_gap(struct child *child, unsigned first, unsigned last)
{
	while (first <= last) {
		unsigned next = last;
		int found = 0;

		for (int i = 0; i < own_count(child); i++) {
			int own = own_descriptor(child, i);
			if (own >= 0 && (unsigned)own >= first && (unsigned)own <= next) {
				next = (unsigned)own;
				found = 1;
			}
		}
		if (!found) {
			close_between(child, first, last);
			return;
		}
		if (next > first)
			close_between(child, first, next - 1);
		first = next + 1;
	}
}

static void set_up_descriptors(struct child *child)
{
	const struct plan *plan = &child->plan;
	unsigned first = 3;

	set_up_stdio(child);
	if (plan->is_helper)
		for (first = 0; first < 3 && plan->stdio[first] >= 0;)
			first++;
	for (int i = 0; i < plan->keep.count; i++)
		must(child, STEP_stdio, RAW3(fcntl, plan->keep.fds[i], F_SETFD, 0));
	if (child->is_launcher) /* it sets close-on-exec again, or closes them */
		for (int i = 1; i < own_count(child); i++)
			if (own_descriptor(child, i) >= 0)
				must(child, STEP_stdio, RAW3(fcntl, own_descriptor(child, i), F_SETFD, 0));
	if (!plan->close_fds)
		return;
	for (int i = 0; i < plan->keep.count; i++) {
		unsigned kept = (unsigned)plan->keep.fds[i];
		if (kept < first)
			continue;
		if (kept > first)
			close_gap(child, first, kept - 1);
		first = kept + 1;
	}
	close_gap(child, first, ~0u);
}

static void wait_until_mapped(struct child *child)
{
	while (!__atomic_load_n(&child->go, __ATOMIC_ACQUIRE))
		RAW4(futex, &child->go, FUTEX_WAIT, 0, 0);
}

/* An exec takes the capabilities from a process that is not root. In a namespace that it
 * makes itself the launcher has all of them again. */
static void keep_capabilities_to_enter(struct child *child)
{
	const struct namespaces *namespaces = &child->plan.namespaces;
	struct capabilities own;

	if (!namespaces->join_count && !namespaces->owner.is_set)
		return;
	must(child, STEP_capabilities, get_capabilities(&own));
	must(child, STEP_capabilities, keep_over_exec(permitted(&own)));
}

static void set_up(struct child *child)
{
	const struct setup *setup = &child->plan.setup;
	enum step step = STEP_none;

	long result = run_calls(setup, FOR_INIT_AND_COMMAND, &step);

	must(child, step, result);
	if (setup->ambient)
		must(child, STEP_capabilities, keep_over_exec(setup->ambient));
	result = run_calls(setup, FOR_COMMAND, &step);
	must(child, step, result);
}

/* By its descriptor alone. Where a security module (TOMOYO) looks for its name /dev/fd/N, and there is no
 * /dev/fd, this is ENOENT; a path below /proc/self would lead to a file that another user mounted there. */
static void execute_image(struct child *child)
{
	long result = RAW5(execveat, child->image, "", child->image_argv, child->image_envp, AT_EMPTY_PATH);

	give_up(child, result == -E2BIG ? STEP_exec : STEP_execveat, result);
}

void spawned_child(void *argument)
{
	struct child *child = argument;
	const struct plan *plan = &child->plan;
	int executes_image = child->image >= 0;

	/* While it waits for the parent it must not outlive it, whatever is
	 * asked for later. */
	die_with_parent(&child->death, SIGKILL);
	if (!child->is_launcher)
		RAW2(prctl, PR_SET_NAME, NAME_BEFORE_EXEC);
	set_up_signals(child, executes_image);
	set_up_descriptors(child);

	if (child->is_launcher) {
		keep_capabilities_to_enter(child);
	} else {
		wait_until_mapped(child);
		/* After the maps: only now are there capabilities over mapped files. */
		set_up(child);
		if (child->death.signal != SIGKILL)
			die_with_parent(&child->death, child->death.signal);
	}

	if (plan->is_helper && !child->is_launcher)
		set_signal_mask(0);
	if (executes_image)
		execute_image(child);
	__atomic_store_n(&child->state, CHILD_EXECUTING, __ATOMIC_RELEASE);
	set_signal_mask(child->signal_mask);
	give_up(child, STEP_exec, -execute(&plan->command));
}

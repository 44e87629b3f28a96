/* The calling program executes the launcher itself, which becomes the command. See become.h for the other side.
 *
 * The user namespace is there already, with its maps: the launcher enters it, and no process has to stay behind to write
 * them. What can still fail is either the exec of the launcher, and then all is put back as it was, or it is told by the
 * launcher, which has all messages with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "inline.h"
#include "proven_proc.h"
#include "spawn.h"
#include "stack.h"

/* What it needs, and what is undone if it fails. */
struct attempt {
	int image, image_is_shared;
	int proc, cgroup, self, parameters;
	int sockets[2]; /* of an init, and of the monitor */
	char **argv;
	struct launcher_parameters *block;
	struct borrowed borrowed;
};

static const struct attempt nothing = {.image = -1, .proc = -1, .cgroup = -1, .self = -1, .parameters = -1,
				       .sockets = {-1, -1}, .borrowed = {.fd = -1}};

static void discard(struct attempt *attempt)
{
	if (!attempt->image_is_shared)
		close_if_open(attempt->image);
	close_if_open(attempt->proc);
	close_if_open(attempt->cgroup);
	close_if_open(attempt->self);
	close_if_open(attempt->parameters);
	close_if_open(attempt->sockets[0]);
	close_if_open(attempt->sockets[1]);
	give_back(attempt->borrowed);
	free(attempt->argv);
	free(attempt->block);
}

static int copy_of(int fd, enum step step, const struct plan *plan, struct failure *failure)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, plan->setup.least_fd);

	return copy < 0 ? fail(failure, step, errno) : copy;
}

static int open_descriptors(struct attempt *attempt, const struct plan *plan, const struct becoming *becoming,
			    struct failure *failure)
{
	if (becoming->monitors) {
		struct borrowed root = borrow_proc_root();

		if (root.fd >= 0 && has_pids_of_caller(root))
			attempt->proc = fcntl(root.fd, F_DUPFD_CLOEXEC, plan->setup.least_fd);
		give_back(root);
	}
	if (attempt->proc < 0 && becoming->monitors)
		attempt->proc = proc_to_close_by(failure);
	if (attempt->proc == -2 || (attempt->proc >= 0 && move_above_targets(&attempt->proc, plan, failure) < 0))
		return -1;
	if (plan->cgroup >= 0 && (attempt->cgroup = copy_of(plan->cgroup, STEP_cgroup, plan, failure)) < 0)
		return -1;
	if (!becoming->monitors)
		return 0;
	if (borrow_self(&attempt->borrowed, failure) < 0 ||
	    (attempt->self = copy_of(attempt->borrowed.fd, STEP_prepare, plan, failure)) < 0)
		return -1;
	if (!plan->is_init)
		return 0;
	if (open_sockets(attempt->sockets, failure) < 0 ||
	    move_above_targets(&attempt->sockets[0], plan, failure) < 0)
		return -1;
	return move_above_targets(&attempt->sockets[1], plan, failure);
}

/* A file in memory, and not a socket: nothing has to take part of it away before the rest fits in. */
static int write_parameters(struct attempt *attempt, const struct plan *plan, struct failure *failure)
{
	const char *next = (const char *)attempt->block;
	size_t left = attempt->block->size;
	ssize_t written;

	attempt->parameters = memfd_create("usernsproc-parameters", MFD_CLOEXEC);
	if (attempt->parameters < 0)
		return fail(failure, STEP_memfd_create, errno);
	for (; left; next += written, left -= (size_t)written) {
		written = write(attempt->parameters, next, left);
		if (written <= 0)
			return fail(failure, STEP_memfd_create, written ? errno : EIO);
	}
	if (lseek(attempt->parameters, 0, SEEK_SET) < 0)
		return fail(failure, STEP_memfd_create, errno);
	return move_above_targets(&attempt->parameters, plan, failure);
}

static struct parent_death death_of(const struct attempt *attempt, const struct plan *plan)
{
	return (struct parent_death){.signal = plan->death_signal, .parent = (int32_t)getpid(), .parent_pidfd = attempt->self};
}

static int prepare_parameters(struct attempt *attempt, const struct plan *plan, const struct becoming *becoming,
			      uint64_t mask, struct failure *failure)
{
	struct launcher_parameters parameters = {
		.init_socket = attempt->sockets[0],
		.socket = -1,
		.cgroup = attempt->cgroup,
		.proc = attempt->proc,
		.namespaces = plan->namespaces,
		.candidates = plan->command.candidates,
		.setup = plan->setup,
		.death = death_of(attempt, plan),
		.signal_mask = plan->signal_mask ? *plan->signal_mask : mask,
		.name = NAME_BEFORE_EXEC,
		.init_name = NAME_OF_INIT,
		.becomes = 1,
		.monitors = becoming->monitors,
		.restores_signals = plan->restore_signals,
		.monitor_socket = attempt->sockets[1],
		.enters_own_userns = becoming->enters_own_userns,
		.limits = {becoming->limits[0], becoming->limits[1]},
		.messages = becoming->messages,
		.messages_size = becoming->messages_size,
		.monitor_name = NAME_OF_MONITOR,
		.cgroup_file = "cgroup.procs",
		.status_file = "/status",
		.syscall_file = "/syscall",
		.pending_field = "ShdPnd:",
		.blocked_field = "SigBlk:",
		.ignored_field = "SigIgn:",
		.caught_field = "SigCgt:",
	};

	attempt->block = launcher_block(&parameters, failure);
	if (!attempt->block || write_parameters(attempt, plan, failure) < 0)
		return -1;
	attempt->argv = launcher_argv(attempt->parameters, plan->command.argv);
	return attempt->argv ? 0 : fail(failure, STEP_prepare, ENOMEM);
}

/* ---- what an exec takes away, unless it is told to keep it ---- */

/* Those that were not close-on-exec anyway stay so. */
static void set_inheritance(const struct attempt *attempt, const struct plan *plan, int flag)
{
	const int own[] = {attempt->proc, attempt->cgroup, attempt->self, attempt->parameters, attempt->sockets[0],
			   attempt->sockets[1]};

	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (own[i] >= 0)
			fcntl(own[i], F_SETFD, flag);
	for (uint32_t i = 0; i < plan->namespaces.join_count; i++)
		fcntl(plan->namespaces.joins[i].fd, F_SETFD, flag);
	for (int i = 0; i < plan->setup.fds.count; i++)
		fcntl(plan->setup.fds.fds[i], F_SETFD, flag);
}

static void make_inheritable(const struct descriptors *keep, char *flags)
{
	for (int i = 0; i < keep->count; i++) {
		flags[i] = (char)fcntl(keep->fds[i], F_GETFD);
		fcntl(keep->fds[i], F_SETFD, 0);
	}
}

static void restore_flags(const struct descriptors *keep, const char *flags)
{
	for (int i = 0; i < keep->count; i++)
		if (flags[i] >= 0)
			fcntl(keep->fds[i], F_SETFD, flags[i]);
}

static uint64_t ambient_capabilities(void)
{
	uint64_t ambient = 0;

	for (int capability = 0; capability < 64; capability++)
		if (RAW5(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0) == 1)
			ambient |= (uint64_t)1 << capability;
	return ambient;
}

static void restore_capabilities(const struct capabilities *before, uint64_t ambient)
{
	keep_over_exec(ambient);
	set_capabilities(before);
}

/* An exec takes the capabilities from a process that is not root, which the launcher needs to enter namespaces. */
static int execute_launcher(const struct attempt *attempt, const struct plan *plan, struct failure *failure)
{
	struct capabilities before;
	uint64_t ambient = ambient_capabilities();
	char *flags = malloc((size_t)plan->keep.count + 1);
	long result = flags ? get_capabilities(&before) : -ENOMEM;

	if (result >= 0) {
		result = keep_over_exec(permitted(&before));
		if (result >= 0) {
			make_inheritable(&plan->keep, flags);
			set_inheritance(attempt, plan, 0);
			result = RAW5(execveat, attempt->image, "", attempt->argv, plan->command.envp, AT_EMPTY_PATH);
			set_inheritance(attempt, plan, FD_CLOEXEC);
			restore_flags(&plan->keep, flags);
			fail(failure, result == -E2BIG ? STEP_exec : STEP_execveat, (int)-result);
		} else {
			fail(failure, STEP_capabilities, (int)-result);
		}
		restore_capabilities(&before, ambient);
	} else {
		fail(failure, STEP_capabilities, (int)-result);
	}
	free(flags);
	return -1;
}

int become(const struct plan *plan, const struct becoming *becoming, struct failure *failure)
{
	struct attempt attempt = nothing;
	uint64_t mask = current_signal_mask();
	int on_disk = 0;

	if (open_descriptors(&attempt, plan, becoming, failure) == 0 &&
	    prepare_parameters(&attempt, plan, becoming, mask, failure) == 0) {
		attempt.image = launcher_image(may_inspect_all(), &attempt.image_is_shared, &on_disk, failure);
		if (attempt.image >= 0) {
			block_signals();
			execute_launcher(&attempt, plan, failure);
			restore_signals(mask);
		}
	}
	discard(&attempt);
	return -1;
}

/* What a child is given before it is created. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inline.h"
#include "spawn.h"
#include "stack.h"

/* Whatever has to wait for others than the writing of its maps, or must not be seen in the caller's
 * memory, or would change the caller with itself. */
int needs_launcher(const struct plan *plan)
{
	if (plan->namespaces.join_count || plan->namespaces.owner.is_set || plan->cgroup >= 0 ||
	    plan->setup.needs >= OWN_MEMORY)
		return 1;
	return !plan->is_helper && (plan->hook.call || plan->is_init);
}

/* It starts others of the same parent, one after the other. */
int needs_second_process(const struct plan *plan)
{
	return needs_launcher(plan) && (plan->cgroup >= 0 || needs_child(&plan->namespaces));
}

uint64_t current_signal_mask(void)
{
	uint64_t mask = 0;

	RAW4(rt_sigprocmask, SIG_BLOCK, 0, &mask, sizeof(mask));
	return mask;
}

static char *const holder_argv[] = {"usernsproc-holder", NULL};
#define LAUNCHER_NAME_SIZE 40

static struct holder_parameters holder_of(const struct plan *plan)
{
	struct holder_parameters parameters = {.has_lifeline = plan->death_signal != 0, .name = NAME_OF_HOLDER};

	return parameters;
}

/* Nothing of the parent's but a descriptor that shows its end. */
static void isolate_helper(struct plan *plan, struct child *child)
{
	plan->close_fds = 1;
	plan->keep.count = 0;
	plan->stdio[0] = child->death.parent_pidfd;
	plan->stdio[1] = plan->stdio[2] = -1;
	child->death.signal = 0; /* it looks after itself */
}

static int prepare_holder(const struct plan *plan, struct child *child, struct spawned *spawned,
			  struct failure *failure)
{
	struct holder_parameters parameters = holder_of(plan);

	set_image(child,
		  make_image(PROGRAM_HOLDER, &parameters, sizeof(parameters), &spawned->image_on_disk, failure),
		  holder_argv, no_environment);
	return child->image < 0 ? -1 : 0;
}

char **launcher_argv(int socket, char *const *argv)
{
	size_t count = 0;
	char **vector, *name;

	while (argv[count])
		count++;
	vector = malloc((count + 2) * sizeof(char *) + LAUNCHER_NAME_SIZE);
	if (!vector)
		return NULL;
	name = (char *)(vector + count + 2);
	snprintf(name, LAUNCHER_NAME_SIZE, "usernsproc-launcher:%010d", socket);
	vector[0] = name;
	memcpy(vector + 1, argv, (count + 1) * sizeof(char *));
	return vector;
}

static int prepare_launcher(const struct plan *plan, struct child *child, struct spawned *spawned,
			    struct failure *failure)
{
	struct launcher_parameters parameters = {
		.is_helper = plan->is_helper,
		.is_dumpable = !may_inspect_all(),
		.group = (int32_t)getpgrp(),
		.init_socket = child->init_socket,
		.socket = child->socket,
		.monitor_socket = -1,
		.cgroup = child->cgroup,
		.proc = child->proc,
		.namespaces = plan->namespaces,
		.candidates = plan->command.candidates,
		.setup = plan->setup,
		.death = child->death,
		.signal_mask = plan->signal_mask ? *plan->signal_mask : current_signal_mask(),
		.holder = holder_of(plan),
		.name = NAME_BEFORE_EXEC,
		.init_name = NAME_OF_INIT,
	};

	child->is_launcher = 1;
	child->block = launcher_block(&parameters, failure);
	if (!child->block)
		return -1;
	child->launcher_argv = launcher_argv(child->socket, plan->command.argv);
	if (!child->launcher_argv)
		return fail(failure, STEP_prepare, ENOMEM);
	set_image(child,
		  launcher_image(!parameters.is_dumpable, &child->image_is_shared, &spawned->image_on_disk, failure),
		  child->launcher_argv, plan->command.envp);
	return child->image < 0 ? -1 : 0;
}

/* What is in use until the command is executed may not have a number that a call of the set-up replaces. */
int move_above_targets(int *fd, const struct plan *plan, struct failure *failure)
{
	*fd = not_below(*fd, plan->setup.least_fd);
	return *fd < 0 ? fail(failure, STEP_prepare, errno) : 0;
}

/* Descriptors that only it may have, none of them 0, 1 or 2. */
static int prepare_descriptors(const struct plan *plan, struct child *child, int sockets[2], struct spawned *spawned,
			       struct failure *failure)
{
	child->proc = plan->close_fds || plan->is_init ? proc_to_close_by(failure) : -1;
	if (child->proc == -2 || (child->proc >= 0 && move_above_targets(&child->proc, plan, failure) < 0))
		return -1;
	if (!needs_launcher(plan))
		return 0;
	if (open_sockets(sockets, failure) < 0)
		return -1;
	if (move_above_targets(&sockets[1], plan, failure) < 0)
		return -1;
	child->socket = sockets[1];
	if (plan->is_init) {
		int ends[2];

		if (open_sockets(ends, failure) < 0)
			return -1;
		spawned->ending = ends[0];
		child->init_socket = ends[1];
	}
	if (plan->cgroup < 0)
		return 0;
	child->cgroup = fcntl(plan->cgroup, F_DUPFD_CLOEXEC, 3);
	return child->cgroup < 0 ? fail(failure, STEP_cgroup, errno) : move_above_targets(&child->cgroup, plan, failure);
}

/* The helper program that it executes, if any. */
int prepare_image(struct plan *plan, struct child *child, int sockets[2], struct spawned *spawned,
			 struct failure *failure)
{
	if (plan->is_helper)
		isolate_helper(plan, child);
	if (prepare_descriptors(plan, child, sockets, spawned, failure) < 0)
		return -1;
	if (needs_launcher(plan))
		return prepare_launcher(plan, child, spawned, failure);
	return plan->is_helper ? prepare_holder(plan, child, spawned, failure) : 0;
}

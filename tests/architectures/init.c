/* /init of a machine that has a kernel and this program, nothing else: runs the
 * core on it and prints the results, one line per check.
 *
 * Linked statically from the core's own files (all but module.c), see `run`. It
 * is also the command that it starts: with arguments it is "report", which
 * prints its own state, or "park".
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/nsfs.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "core.h"
#include "kept.h"
#include "proven_proc.h"
#include "rawsys.h"
#include "reaper.h"

#define REPORT_STATUS 42

/* What a command can see of how it was started. */
static int report(int argc, char **argv)
{
	static const char *const states[] = {"SigBlk", "SigIgn", "CapInh", "CapAmb", "NoNewPrivs"};
	gid_t groups[8];
	int count = getgroups(8, groups);
	char directory[64];

	printf("argv");
	for (int i = 0; i < argc; i++)
		printf(" %s", argv[i]);
	printf("; env");
	for (char **variable = environ; *variable; variable++)
		printf(" %s", *variable);
	printf("; uid_map %s", contents("/proc/self/uid_map"));
	printf("; gid_map %s", contents("/proc/self/gid_map"));
	printf("; ids %d %d %d %d", (int)getuid(), (int)geteuid(), (int)getgid(), (int)getegid());
	printf("; groups");
	for (int i = 0; i < count; i++)
		printf(" %d", (int)groups[i]);
	printf("; fds %s", names_in("/proc/self/fd"));
	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		printf("; %s %llx", states[i],
		       strtoull(status(contents("/proc/self/status"), states[i]), NULL, 16));
	printf("; in %s", getcwd(directory, sizeof(directory)));
	printf("; cgroup %s", contents("/proc/self/cgroup"));
	return REPORT_STATUS;
}

/* ---- what is asked for ---- */

static char *report_argv[] = {"usernsproc-test", "report", "two words", "", NULL};
static char *park_argv[] = {"usernsproc-test", "park", NULL};
static char *environment[] = {"A=1", "B=x y", NULL};
static char *candidates[] = {"/nowhere/init", "/init", NULL};
static char *missing[] = {"/nowhere/init", "/tmp/init", NULL};
static int kept[] = {7};

static const struct maps own_ids = {.uid_map = "0 0 1000\n", .gid_map = "0 0 1000\n"};
static const struct maps subordinate_ids = {.uid_map = "0 100000 65536\n",
					    .gid_map = "0 200000 65536\n"};

/* Nothing ends a wait but the child. */

#define CALL_WITH(its_result, its_expected, ...) \
	(struct system_call){.result = its_result, .expected = its_expected, __VA_ARGS__}
#define CALL(...) CALL_WITH(-1, -1, __VA_ARGS__)
enum { DIRECTORY = 8, FD = 48, POINTER = 56, DATA_SIZE = 64 };

/* What the interpreter of the calls does itself: a result as an argument, an address in the data, a helper, and a call
 * that is left out, because the one before it failed and was tolerated. */
static uint32_t add_own_calls(struct system_call *calls)
{
	uint32_t count = 0;

	calls[count++] = CALL_WITH(FD, -1, .number = __NR_openat, .pointers = 2,
			      .arguments = {(uint64_t)AT_FDCWD, DIRECTORY, O_RDONLY | O_DIRECTORY | O_CLOEXEC});
	calls[count++] = CALL_WITH(-1, 0, .number = __NR_fchdir, .results = 1, .arguments = {FD});
	calls[count++] = CALL(.number = CALL_STORE_ADDRESS, .pointers = 3, .arguments = {POINTER, DIRECTORY});
	calls[count++] = CALL(.number = CALL_FORK, .arguments = {1});
	calls[count++] = CALL(.number = __NR_umask, .arguments = {0777});
	calls[count++] = CALL_WITH(FD, -1, .number = __NR_openat, .pointers = 2, .tolerated = {ENOTDIR, 0, 0, 0, ENOENT},
			      .arguments = {0, DIRECTORY + 1, O_RDONLY | O_DIRECTORY | O_CLOEXEC});
	calls[count++] = CALL(.number = __NR_fchmod, .results = 1, .arguments = {FD, 0});
	return count;
}

/* As Python has it: the step of a call is its index. A negative id: none. */
static struct setup setup_of(const char *cwd, int64_t id, int no_new_privs)
{
	static const uint32_t groups[] = {5, 60};
	const uint64_t number = (uint64_t)id;
	struct system_call *calls = calloc(12, sizeof(*calls));
	char *data = calloc(1, DATA_SIZE);
	uint32_t count = 0;

	if (!calls || !data)
		exit(1);
	memcpy(data, groups, sizeof(groups));
	strcpy(data + DIRECTORY, cwd);
	memset(data + FD, 0xff, 8);
	calls[count++] = CALL(.number = __NR_chdir, .pointers = 1, .arguments = {DIRECTORY});
	if (id >= 0) {
		calls[count++] = CALL(.number = __NR_setgroups, .pointers = 2, .arguments = {2});
		calls[count++] = CALL(.number = __NR_setresgid, .arguments = {number, number, number});
		calls[count++] = CALL(.number = __NR_setresuid, .arguments = {number, number, number});
		count += add_own_calls(calls + count);
	}
	if (no_new_privs)
		calls[count++] = CALL(.number = __NR_prctl, .arguments = {PR_SET_NO_NEW_PRIVS, 1});
	return (struct setup){.calls = calls, .count = count, .data = data, .data_size = DATA_SIZE,
			      .ends = {0, (int32_t)count, (int32_t)count, (int32_t)count}, .least_fd = 3,
			      .needs = id >= 0 ? OWN_MEMORY_AND_MAPS : ANY_MEMORY};
}

static struct plan plan_for(char **argv)
{
	struct plan plan = {
		.namespaces = {.flags = CLONE_NEWUSER},
		.maps = own_ids,
		.command = {argv, environment, candidates},
		.setup = setup_of("/tmp", -1, 0),
		.stdio = {-1, -1, -1},
		.keep = {kept, 1},
		.close_fds = 1,
		.restore_signals = 1,
		.cgroup = -1,
		.patience = {.cancelled = -1},
		.death_signal = SIGKILL,
	};

	return plan;
}

/* By way of the launcher: ids that the caller does not have. */
static struct plan plan_as(uint32_t id, char **argv)
{
	struct plan plan = plan_for(argv);

	plan.maps = subordinate_ids;
	plan.setup = setup_of("/tmp", id, 0);
	return plan;
}

static struct plan plan_for_holder(void)
{
	static char *const nothing[] = {NULL};
	struct plan plan = plan_for(NULL);

	plan.is_helper = 1;
	plan.command = (struct command){nothing, nothing, nothing};
	plan.setup = setup_of("/", -1, 0);
	plan.maps = subordinate_ids;
	return plan;
}

#define REPORT(maps, ids, states, cgroup)                                                         \
	"argv usernsproc-test report two words ; env A=1 B=x y; " maps "; ids " ids               \
	"; fds 0 1 2 7; SigBlk 800; SigIgn 200; " states "; in /tmp; cgroup 0::/" cgroup
#define MAPS_OWN "uid_map 0 0 1000; gid_map 0 0 1000"
#define MAPS_SUBORDINATE "uid_map 0 100000 65536; gid_map 0 200000 65536"
#define IDS_OWN "0 0 0 0; groups"
#define IDS(id) id " " id " " id " " id "; groups 5 60"
#define UNPRIVILEGED "CapInh 0; CapAmb 0; NoNewPrivs 0"
#define REPORT_OWN REPORT(MAPS_OWN, IDS_OWN, UNPRIVILEGED, "")
#define REPORT_AS(id) REPORT(MAPS_SUBORDINATE, IDS(id), UNPRIVILEGED, "")

/* In both halves of what capset() takes: CAP_NET_RAW, CAP_BPF. */
#define AMBIENT (1ull << 13 | 1ull << 39)
#define PRIVILEGED "CapInh 8000002000; CapAmb 8000002000; NoNewPrivs 1"

/* PIDFD_GET_INFO has it from 6.15 on. */
static int keeps_exit_status(void)
{
	struct utsname system;
	int major = 0, minor = 0;

	uname(&system);
	sscanf(system.release, "%d.%d", &major, &minor);
	return major > 6 || (major == 6 && minor >= 15);
}

static void check_status(int pidfd, const char *subject)
{
	siginfo_t info = {0};

	check(waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | __WALL) == 0 && info.si_code == CLD_EXITED &&
		      info.si_status == REPORT_STATUS,
	      subject, "exit status");
	if (keeps_exit_status())
		check(pidfd_exit_status(pidfd) == REPORT_STATUS << 8, subject, "exit status afterwards");
	else
		check(pidfd_exit_status(pidfd) == -1, subject, "exit status not kept by this kernel");
}

static void read_report(int from, char *text, size_t size)
{
	size_t length = 0;
	ssize_t part;

	while ((part = read(from, text + length, size - 1 - length)) > 0)
		length += (size_t)part;
	text[length] = 0;
}

/* A descriptor to be kept, others that could be inherited, and a pipe that may not. */
static void check_report(struct plan plan, const char *wanted, const char *subject)
{
	struct failure failure = {0};
	struct spawned spawned;
	char text[1024];
	int output[2], outcome;

	if (pipe2(output, O_CLOEXEC) < 0 || dup2(0, kept[0]) < 0 || dup2(0, 6) < 0 || dup2(0, 100) < 0)
		exit(1);
	plan.stdio[1] = output[1];
	forget_old_code();
	outcome = spawn(&plan, &spawned, &failure);
	close(output[1]);
	if (check_outcome(outcome, &failure, STEP_none, 0, subject)) {
		read_report(output[0], text, sizeof(text));
		check_text(text, wanted, subject, "what it sees");
		check_status(spawned.pidfd, subject);
		check((spawned.ending >= 0) == plan.is_init, subject, "an init says how the command ended");
		if (spawned.ending >= 0)
			close(spawned.ending);
		close(spawned.pidfd);
	}
	close(output[0]);
	close(kept[0]);
	close(6);
	close(100);
}

/* ---- namespaces ---- */

static volatile sig_atomic_t sigchld_count;

static void count_sigchld(int signal)
{
	sigchld_count += signal == SIGCHLD;
}

/* Not below 10: check_report() uses some of these numbers. */
static int open_by_path(pid_t pid, const char *kind)
{
	char path[64];
	int fd, copy;

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, kind);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 10);
	close(fd);
	return copy;
}

static void read_file_of(const struct spawned *spawned, const char *name, char *text, size_t size)
{
	int directory = open_proc_dir_of(spawned->pidfd), file;
	ssize_t length;

	file = directory < 0 ? -1 : openat(directory, name, O_RDONLY | O_CLOEXEC);
	length = file < 0 ? -1 : read(file, text, size - 1);
	text[length > 0 ? length : 0] = 0;
	close_if_open(file);
	close_if_open(directory);
}

static void check_maps(const struct spawned *spawned, const char *subject)
{
	char text[256];

	read_file_of(spawned, "uid_map", text, sizeof(text));
	check_text(squeeze(text), "0 100000 65536", subject, "uid map");
	read_file_of(spawned, "gid_map", text, sizeof(text));
	check_text(squeeze(text), "0 200000 65536", subject, "gid map");
}

/* A helper program of a call. The caller gets no SIGCHLD. */
static void check_hidden(const struct plan *given, uid_t owner, const char *subject)
{
	struct plan plan = *given;
	struct failure failure = {0};
	struct spawned spawned;
	uid_t found = 0;
	int userns;

	plan.is_hidden = 1;
	forget_old_code();
	if (!check_outcome(spawn(&plan, &spawned, &failure), &failure, STEP_none, 0, subject))
		return;
	userns = open_by_path(spawned.pid, "user");
	check(ioctl(userns, NS_GET_OWNER_UID, &found) == 0 && found == owner, subject, "the owner");
	check_maps(&spawned, subject);
	close(userns);
	end_child(spawned.pid, spawned.pidfd, NULL);
	end_reaper(spawned.reaper);
	check(sigchld_count == 0, subject, "no SIGCHLD was sent");
}

static void namespaces(void)
{
	static const struct maps wrong = {.uid_map = "0 0 0\n"};
	struct failure failure = {0};
	struct plan joined = plan_for_holder(), created = plan_for_holder();
	struct join join = {.kind = CLONE_NEWUSER};
	struct traces before, with_one;
	struct spawned spawned;
	int userns, zero;

	look(&before);
	check_outcome(create_userns(&wrong, &failure), &failure, STEP_uid_map, EINVAL,
		      "create_userns with a wrong map");
	check_nothing_left(&before, "create_userns with a wrong map");

	signal(SIGCHLD, count_sigchld);
	userns = create_userns(&subordinate_ids, &failure);
	check_outcome(userns, &failure, STEP_none, 0, "create_userns");
	check(sigchld_count == 0, "create_userns", "no SIGCHLD was sent");
	check(ioctl(userns, NS_GET_NSTYPE) == CLONE_NEWUSER, "create_userns", "a user namespace");
	check(fcntl(userns, F_GETFD) == FD_CLOEXEC, "create_userns", "closed on exec");
	look(&with_one);
	check_nothing_left(&with_one, "create_userns");
	join.fd = userns;
	joined.namespaces = (struct namespaces){.joins = &join, .join_count = 1};
	joined.maps = (struct maps){0};
	check_hidden(&joined, 0, "a hidden helper that joins");
	check_nothing_left(&with_one, "a hidden helper that joins");
	close(userns);
	check_nothing_left(&before, "a closed namespace");

	created.namespaces.owner = (struct optional_id){1, 1234};
	check_hidden(&created, 1234, "a hidden helper for another owner");
	check_nothing_left(&before, "a hidden helper for another owner");

	zero = join.fd = open("/", O_RDONLY | O_CLOEXEC);
	forget_old_code();
	joined.is_hidden = 1;
	check_outcome(spawn(&joined, &spawned, &failure), &failure, STEP_setns, EINVAL, "joining no namespace");
	close(zero);
	check_nothing_left(&before, "joining no namespace");
}

/* ---- commands ---- */

static void commands(void)
{
	struct plan in_pid_namespace = plan_for(report_argv), in_time_namespace = plan_for(report_argv);
	struct traces before;

	in_pid_namespace.namespaces.flags |= CLONE_NEWPID;
	in_time_namespace.namespaces.flags |= CLONE_NEWTIME; /* by clone3() */
	look(&before);
	check_report(plan_for(report_argv), REPORT_OWN, "a command");
	check_report(plan_as(0, report_argv), REPORT_AS("0"), "a command as root");
	check_report(plan_as(33, report_argv), REPORT_AS("33"), "a command as 33");
	check_report(in_pid_namespace, REPORT_OWN, "a command in a pid namespace of its own");
	check_report(in_time_namespace, REPORT_OWN, "a command in a time namespace of its own");
	check_nothing_left(&before, "commands");
}

/* By way of a launcher that makes the namespaces, or enters them, and of its successor. */
static void commands_behind_a_successor(void)
{
	struct plan in_pid_namespace = plan_as(33, report_argv), below_init = plan_as(33, report_argv);
	struct plan owned = plan_as(33, report_argv);
	struct traces before;

	in_pid_namespace.namespaces.flags |= CLONE_NEWPID;
	below_init.namespaces.flags |= CLONE_NEWPID;
	below_init.is_init = 1;
	owned.namespaces.owner = (struct optional_id){1, 1234};
	look(&before);
	check_report(in_pid_namespace, REPORT_AS("33"), "a command as 33 in a pid namespace of its own");
	check_report(below_init, REPORT_AS("33"), "a command below an init");
	check_report(owned, REPORT_AS("33"), "a command in a namespace of another owner");
	check_nothing_left(&before, "commands behind a successor");
}

static void commands_that_join(void)
{
	struct plan holder = plan_for_holder(), plan = plan_as(33, report_argv);
	struct failure failure = {0};
	struct spawned spawned;
	struct traces before;
	struct join joins[2];

	look(&before);
	holder.namespaces.flags |= CLONE_NEWPID;
	forget_old_code();
	if (!check_outcome(spawn(&holder, &spawned, &failure), &failure, STEP_none, 0, "a holder of two"))
		return;
	joins[0] = (struct join){open_by_path(spawned.pid, "user"), CLONE_NEWUSER};
	joins[1] = (struct join){open_by_path(spawned.pid, "pid"), CLONE_NEWPID};
	plan.maps = (struct maps){0};
	plan.namespaces = (struct namespaces){.joins = joins, .join_count = 2};
	check_report(plan, REPORT_AS("33"), "a command that joins");
	close(joins[0].fd);
	close(joins[1].fd);
	end_child(spawned.pid, spawned.pidfd, NULL);
	check_nothing_left(&before, "a command that joins");
}

static void privileged_commands(void)
{
	struct plan plan = plan_for(report_argv), plan_as_other = plan_as(33, report_argv);

	plan.setup = setup_of("/tmp", -1, 1);
	plan_as_other.setup = setup_of("/tmp", 33, 1);
	plan.setup.ambient = plan_as_other.setup.ambient = AMBIENT;
	check_report(plan, REPORT(MAPS_OWN, IDS_OWN, PRIVILEGED, ""), "a command with capabilities");
	check_report(plan_as_other, REPORT(MAPS_SUBORDINATE, IDS("33"), PRIVILEGED, ""),
		     "a command as 33 with capabilities");
}

/* By clone3(). */
static void commands_in_cgroup(void)
{
	struct plan plan = plan_for(report_argv), plan_as_root = plan_as(0, report_argv);
	struct failure failure = {0};
	struct spawned spawned;

	plan.cgroup = plan_as_root.cgroup = open("/cgroup/test", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	check_report(plan, REPORT(MAPS_OWN, IDS_OWN, UNPRIVILEGED, "test"), "a command in a cgroup");
	check_report(plan_as_root, REPORT(MAPS_SUBORDINATE, IDS("0"), UNPRIVILEGED, "test"),
		     "a command as root in a cgroup");
	close(plan.cgroup);
	plan.keep.count = 0;
	forget_old_code();
	plan.cgroup = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* As clone3(2) says, or where that is refused, openat(2). */
	check(spawn(&plan, &spawned, &failure) < 0 && failure.step == STEP_cgroup &&
		      (failure.error == EBADF || failure.error == ENOENT),
	      "a command in what is not a cgroup", "the error is reported");
	close(plan.cgroup);
}

static int give_up(void *context, pid_t pid, int pidfd)
{
	return context == NULL && pid > 0 && pidfd >= 0;
}

static void failing_commands(void)
{
	const struct {
		const char *subject;
		struct plan plan;
		char **candidates;
		struct setup setup;
		int (*hook)(void *, pid_t, int);
		enum step step;
		int error;
	} cases[] = {
		{"a missing command", plan_for(park_argv), missing, setup_of("/", -1, 0), NULL, STEP_exec, ENOENT},
		{"a missing command as root", plan_as(0, park_argv), missing, setup_of("/", 0, 0), NULL, STEP_exec, ENOENT},
		{"no such folder", plan_for(park_argv), candidates, setup_of("/nowhere", -1, 0), NULL, STEP_COUNT, ENOENT},
		{"no such folder as root", plan_as(0, park_argv), candidates, setup_of("/nowhere", 0, 0), NULL,
		 STEP_COUNT, ENOENT},
		{"an id that is not mapped", plan_as(70000, park_argv), candidates, setup_of("/", 70000, 0), NULL,
		 STEP_COUNT + 2, EINVAL},
		{"given up in the hook", plan_for(park_argv), candidates, setup_of("/", -1, 0), give_up, STEP_on_created, 0},
	};
	struct traces before;

	dup2(0, kept[0]);
	look(&before);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct plan plan = cases[i].plan;
		struct failure failure = {0};
		struct spawned spawned;

		plan.command.candidates = cases[i].candidates;
		plan.setup = cases[i].setup;
		plan.hook.call = cases[i].hook;
		forget_old_code();
		check_outcome(spawn(&plan, &spawned, &failure), &failure, cases[i].step, cases[i].error,
			      cases[i].subject);
		check_nothing_left(&before, cases[i].subject);
	}
}

/* ---- holders ---- */

static void check_descriptor(pid_t pid)
{
	char path[64], target[64] = "";

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	check_text(names_in(path), "0", "a holder", "one descriptor");
	strcat(path, "/0");
	check(readlink(path, target, sizeof(target) - 1) > 0 && strstr(target, "pidfd"), "a holder",
	      "a pidfd");
}

static void holders(void)
{
	struct plan plan = plan_for_holder();
	struct failure failure = {0};
	struct spawned spawned;
	struct traces before;
	siginfo_t info = {0};
	pid_t pid;

	forget_old_code();
	look(&before);
	if (!check_outcome(spawn(&plan, &spawned, &failure), &failure, STEP_none, 0, "a holder"))
		return;
	pid = spawned.pid;
	check(!ends_within(spawned.pidfd, SURVIVAL_MILLISECONDS), "a holder", "lives");
	check_text(status(contents_of(pid, "status"), "State"), "S", "a holder", "sleeps");
	check_text(contents_of(pid, "comm"), "usernsproc-hold", "a holder", "name");
	check_text(contents_of(pid, "uid_map"), "0 100000 65536", "a holder", "uid map");
	check_text(contents_of(pid, "gid_map"), "0 200000 65536", "a holder", "gid map");
	check_text(contents_of(pid, "environ"), "", "a holder", "no environment");
	check_text(status(contents_of(pid, "status"), "SigBlk"), "0000000000000000", "a holder",
		   "no signal blocked");
	check_text(status(contents_of(pid, "status"), "SigIgn"), "0000000000010000", "a holder",
		   "its children ignored");
	check_descriptor(pid);
	RAW4(pidfd_send_signal, spawned.pidfd, SIGTERM, 0, 0);
	check(ends_within(spawned.pidfd, PATIENCE_MILLISECONDS) &&
		      waitid(P_PIDFD, (id_t)spawned.pidfd, &info, WEXITED | __WALL) == 0 &&
		      info.si_code == CLD_KILLED && info.si_status == SIGTERM,
	      "a holder", "ends by SIGTERM");
	close(spawned.pidfd);
	check_nothing_left(&before, "a holder");
}

/* ---- whose end is whose ---- */

/* A process that starts one child and reports its PID. */
struct creator {
	struct plan plan;
	enum whence { MAIN_THREAD, THREAD, OUT_OF_SIGHT } place;
	int tell;
	struct spawned spawned;
};

static int tell_pid(void *context, pid_t pid, int pidfd)
{
	struct creator *creator = context;

	return write(creator->tell, &pid, sizeof(pid)) != sizeof(pid) || pidfd < 0;
}

static int tell_pid_and_park(void *context, pid_t pid, int pidfd)
{
	int result = tell_pid(context, pid, pidfd);

	while (result == 0)
		pause();
	return result;
}

static void *create(void *argument)
{
	struct creator *creator = argument;
	struct failure failure = {0};

	creator->plan.hook.context = creator;
	forget_old_code();
	check_outcome(spawn(&creator->plan, &creator->spawned, &failure), &failure, STEP_none, 0,
		      "the creating process");
	return NULL;
}

static void be_creator(struct creator *creator)
{
	pthread_t thread;

	if (creator->place == OUT_OF_SIGHT && unshare(CLONE_NEWPID) < 0)
		exit(1);
	if (creator->place != THREAD)
		create(creator);
	else if (pthread_create(&thread, NULL, create, creator) || pthread_join(thread, NULL))
		exit(1);
	tell_pid(creator, creator->spawned.pid, creator->spawned.pidfd);
	for (;;)
		pause();
}

/* The thread that makes it, if that is not the main one, has ended by the time
 * that we hear of the child. */
static void check_end(struct plan plan, enum whence place, int ends, const char *subject)
{
	struct creator creator = {.plan = plan, .place = place};
	int pipes[2], pidfd = -1;
	pid_t process, child;

	if (pipe2(pipes, O_CLOEXEC) < 0 || dup2(0, kept[0]) < 0)
		exit(1);
	creator.tell = pipes[1];
	process = fork();
	if (process == 0)
		be_creator(&creator);
	close(pipes[1]);
	if (read(pipes[0], &child, sizeof(child)) == sizeof(child))
		pidfd = (int)RAW2(pidfd_open, child, 0);
	close(pipes[0]);
	check(pidfd >= 0 && !ends_within(pidfd, SURVIVAL_MILLISECONDS), subject, "lives");
	kill(process, SIGKILL);
	waitpid(process, NULL, 0);
	if (ends)
		check(ends_within(pidfd, PATIENCE_MILLISECONDS), subject, "ends with the creating process");
	else
		check(!ends_within(pidfd, SURVIVAL_MILLISECONDS), subject, "outlives the creating process");
	RAW4(pidfd_send_signal, pidfd, SIGKILL, 0, 0);
	close(pidfd);
}

static void ends(void)
{
	struct plan detached = plan_for(park_argv), waiting = plan_for(park_argv);

	detached.death_signal = 0;
	waiting.death_signal = 0;
	waiting.hook.call = tell_pid_and_park;
	check_end(plan_for_holder(), MAIN_THREAD, 1, "a holder");
	check_end(plan_for_holder(), THREAD, 1, "a holder of an ended thread");
	check_end(plan_for_holder(), OUT_OF_SIGHT, 1, "a holder in another pid namespace");
	check_end(plan_for(park_argv), MAIN_THREAD, 1, "a command");
	check_end(plan_for(park_argv), THREAD, 1, "a command of an ended thread");
	check_end(plan_for(park_argv), OUT_OF_SIGHT, 1, "a command in another pid namespace");
	check_end(plan_as(0, park_argv), MAIN_THREAD, 1, "a command as root");
	check_end(plan_as(0, park_argv), THREAD, 1, "a command as root of an ended thread");
	check_end(plan_as(0, park_argv), OUT_OF_SIGHT, 1, "a command as root in another pid namespace");
	check_end(plan_as(33, park_argv), THREAD, 1, "a command as 33 of an ended thread");
	check_end(detached, THREAD, 0, "a command without a death signal");
	check_end(waiting, MAIN_THREAD, 1, "a command that may not go on yet");
}

static void *report_from_thread(void *subject)
{
	check_report(plan_as(0, report_argv), REPORT_AS("0"), subject);
	return NULL;
}

/* A command's keeper ends with it, although no process waits for the keeper. */
static void threads(void)
{
	struct traces before, now;
	pthread_t thread;
	int patience = PATIENCE_MILLISECONDS;

	look(&before);
	if (pthread_create(&thread, NULL, report_from_thread, "a command of a thread"))
		exit(1);
	pthread_join(thread, NULL);
	for (look(&now); patience > 0 && strcmp(now.threads, before.threads); patience -= 10) {
		poll(NULL, 0, 10);
		look(&now);
	}
	check_nothing_left(&before, "a command of a thread");
}

/* ---- unusual callers ---- */

/* To every child of one that did unshare(CLONE_NEWPID) getppid() is 0. The
 * first child is process 1 there, and the last: so one for each of these. */
static void command_out_of_sight(void)
{
	check_report(plan_for(report_argv), REPORT_OWN, "a command in another pid namespace");
}

static void root_command_out_of_sight(void)
{
	check_report(plan_as(0, report_argv), REPORT_AS("0"), "a command as root in another pid namespace");
}

static void namespace_out_of_sight(void)
{
	struct failure failure = {0};

	check_outcome(create_userns(&own_ids, &failure), &failure, STEP_none, 0,
		      "create_userns in another pid namespace");
}

static void take_away(unsigned nr)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]), .filter = filter};

	check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 && syscall(nr, 0, 0, 0) < 0 &&
		      errno == ENOSYS,
	      "a system call", "taken away");
}

/* As on a kernel before 5.9. */
static void without_close_range(void)
{
	take_away(__NR_close_range);
	check_report(plan_for(report_argv), REPORT_OWN, "a command without close_range");
	check_report(plan_as(0, report_argv), REPORT_AS("0"), "a command as root without close_range");
	holders();
}

/* As container engines do. */
static void without_clone3(void)
{
	take_away(__NR_clone3);
	commands_in_cgroup();
}

/* ---- all of it ---- */

/* In a process of its own, so that what it changes is gone afterwards. */
/* What stays open is open before the checks look for it, and its numbers are none that they use. */
static void open_what_is_kept(void)
{
	struct failure failure = {0};
	struct borrowed self;

	for (int fd = 3; fd <= 100; fd++)
		dup2(0, fd);
	borrow_self(&self, &failure);
	give_back(self);
	give_back(borrow_proc_root());
	for (int fd = 3; fd <= 100; fd++)
		close(fd);
}

static void in_process(void (*checks)(void), int unshared)
{
	int status = -1;
	pid_t process = fork();

	if (process == 0) {
		if (unshare(unshared) < 0)
			exit(1);
		open_what_is_kept();
		checks();
		exit(0);
	}
	waitpid(process, &status, 0);
	if (status)
		check(0, "a part of the checks", WIFSIGNALED(status) ? "was killed" : "could not go on");
}

/* A copy of this process becomes the command, or what stays above it. */
static void check_becoming(struct plan plan, int monitors, const char *wanted, int wanted_status, const char *subject)
{
	char messages[4096], text[1024];
	struct becoming becoming = {monitors, 1, messages, sizeof(messages)};
	struct failure failure = {0};
	int userns = create_userns(&subordinate_ids, &failure), output[2], status = -1;
	struct join join = {userns, CLONE_NEWUSER};
	pid_t pid;

	memset(messages, 0, sizeof(messages));
	for (size_t i = 0; i < 3 * (STEP_COUNT + plan.setup.count) + 2; i++)
		messages[2 * i] = 'm';
	plan.namespaces.flags &= ~(uint64_t)CLONE_NEWUSER;
	plan.namespaces.joins = &join;
	plan.namespaces.join_count = 1;
	if (pipe2(output, O_CLOEXEC) < 0 || userns < 0)
		exit(1);
	pid = fork();
	if (pid == 0) {
		dup2(output[1], 1);
		dup2(output[1], 2);
		dup2(0, kept[0]);
		become(&plan, &becoming, &failure);
		check_outcome(-1, &failure, STEP_none, 0, subject);
		exit(1);
	}
	close(output[1]);
	close(userns);
	read_report(output[0], text, sizeof(text));
	close(output[0]);
	check_text(text, wanted, subject, "what it sees");
	check(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == wanted_status, subject,
	      "exit status");
}

static void becoming_commands(void)
{
	static char *nowhere[] = {"/nowhere/init", NULL};
	struct plan plan = plan_as(33, report_argv), absent = plan_as(33, report_argv);
	struct plan in_pid_namespace = plan_as(33, report_argv), below_init = plan_as(33, report_argv);

	absent.command.candidates = nowhere;
	in_pid_namespace.namespaces.flags |= CLONE_NEWPID;
	below_init.namespaces.flags |= CLONE_NEWPID;
	below_init.is_init = 1;
	check_becoming(plan, 0, REPORT_AS("33"), REPORT_STATUS, "a program that becomes the command");
	check_becoming(plan, 1, REPORT_AS("33"), REPORT_STATUS, "a program above the command");
	check_becoming(in_pid_namespace, 1, REPORT_AS("33"), REPORT_STATUS, "a program above process 1");
	check_becoming(below_init, 1, REPORT_AS("33"), REPORT_STATUS, "a program above an init");
	check_becoming(absent, 0, "mmmm]m\n", 127, "a program that becomes no command");
	check_becoming(absent, 1, "mmmm]m\n", 127, "a program above no command");
}

static void run_checks(void)
{
	sigset_t blocked;

	/* A command is to find these as here, but SIGPIPE as it was before
	 * Python ignored it. */
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR2);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	signal(SIGUSR1, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, count_sigchld);

	in_process(namespaces, 0);
	in_process(commands, 0);
	in_process(commands_behind_a_successor, 0);
	in_process(commands_that_join, 0);
	in_process(privileged_commands, 0);
	in_process(commands_in_cgroup, 0);
	in_process(failing_commands, 0);
	in_process(becoming_commands, 0);
	in_process(holders, 0);
	in_process(ends, 0);
	in_process(threads, 0);
	in_process(command_out_of_sight, CLONE_NEWPID);
	in_process(root_command_out_of_sight, CLONE_NEWPID);
	in_process(namespace_out_of_sight, CLONE_NEWPID);
	in_process(without_close_range, 0);
	in_process(without_clone3, 0);
}

static void make_system(void)
{
	mkdir("/proc", 0555);
	mkdir("/tmp", 01777);
	mkdir("/dev", 0755);
	mkdir("/cgroup", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("cgroup", "/cgroup", "cgroup2", 0, NULL);
	mkdir("/cgroup/test", 0755);
	/* TOMOYO looks there for the name of what execveat() executes. */
	symlink("/proc/self/fd", "/dev/fd");
}

/* Process 1 only adopts orphans: what the checks expect of children does not
 * hold there, and its end would be a panic. */
static void be_init(void)
{
	struct utsname system;
	int checks_status = -1, status;
	pid_t checks, ended;

	make_system();
	start_counting();
	uname(&system);
	printf("init on Linux %s %s, pages of %ld bytes\n", system.release, system.machine,
	       sysconf(_SC_PAGESIZE));
	fflush(stdout);
	checks = fork();
	if (checks == 0) {
		run_checks();
		exit(0);
	}
	while ((ended = waitpid(-1, &status, __WALL)) > 0) {
		if (ended == checks)
			checks_status = status;
	}
	if (checks_status)
		check(0, "the checks", "ended before their time");
	tell_result();
	reboot(RB_POWER_OFF);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "report") == 0)
		return report(argc, argv);
	if (set_up_generation() == 0 && argc == 1 && getpid() == 1) /* as when the module is loaded */
		be_init();
	for (;;)
		pause();
}

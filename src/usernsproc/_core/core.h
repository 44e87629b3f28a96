/* What the files of the core have in common.
 *
 *   module*.c       the functions that Python calls: convert, call, translate failures
 *   fd.c             OwnedFd, a descriptor that is closed with its object
 *   child_type.c     Child, a process that ends with its object
 *   spawn_values.c   the values of _spawn.py as a struct plan
 *                    (only these see Python.h)
 *   create_userns.c  a user namespace by a child that exists while one call runs
 *   spawn.c          the parent's side of a command or a holder; its parts, in spawn.h:
 *   prepare.c          what the child is given before the clone
 *   report.c           the parent's side of the socket to a launcher
 *   become.c         the calling program executes a launcher itself, and becomes the command
 *   cgroup.c           where clone3(2) cannot place a child in a cgroup
 *   clone.c          clone for these, and the keeper, a thread that is the parent of a child
 *   reaper.c         an intermediate parent, so that the caller gets no SIGCHLD
 *   child.c          the child's side; runs in the parent's memory
 *   programs.c       code that is copied into helper programs, and runs alone
 *   launcher.h       the largest of these: enters namespaces, changes IDs, executes;
 *                    launcher_socket.h, become.h, monitor.h, init.h: parts of it
 *   image.c          builds such a program, as a sealed memfd
 *   inline.h         what both child.c and programs.c need, such as the calls of a set-up
 *   stack.c          memory for a child that shares the caller's; signal masks
 *   procfs.c         /proc/PID as a directory, maps
 *   proven_proc.c    /proc itself: files of a genuine procfs, namespaces
 *   beneath.h        a file beneath a directory, on the same mount
 *   descriptors.c    for children, none of them 0, 1 or 2
 *   kept.c           descriptors that stay open for the next call
 *   wait.c           the one way to wait for a child
 *   end.c            the end of a child
 *   generation.c     whether this is a forked copy of the program
 *   debugger.c       whether a debugger follows
 *   rawsys.h         system calls without libc
 *   compat.h         what old headers lack
 *
 * Functions return -1 (or NULL) and fill a `struct failure`: the step that
 * failed and its errno. Wording is left to Python.
 */
#ifndef USERNSPROC_CORE_H
#define USERNSPROC_CORE_H

#include <stddef.h>
#include <sys/types.h>

#include "compat.h"

#define STEPS(X)                \
	X(none)                 \
	X(prepare)              \
	X(pidfd_open)           \
	X(memfd_create)         \
	X(execveat)             \
	X(clone)                \
	X(open_proc)            \
	X(setgroups)            \
	X(uid_map)              \
	X(gid_map)              \
	X(open_ns)              \
	X(setns)                \
	X(owner)                \
	X(cgroup)               \
	X(on_created)           \
	X(stdio)                \
	X(chdir)                \
	X(setsid)               \
	X(setpgid)              \
	X(init)                 \
	X(capabilities)         \
	X(exec)                 \
	X(read_map)

#define STEP_ENUM(name) STEP_##name,
enum step { STEPS(STEP_ENUM) STEP_COUNT }; /* from STEP_COUNT on: the call of the set-up with that index */
#undef STEP_ENUM

struct failure {
	int32_t step;
	int32_t error;
	int32_t gave_up;    /* the caller's patience ended first */
	int32_t has_ended;  /* the child ended by itself, and as what: -N for signal N */
	int32_t returncode;
};

/* How long the caller waits, and what else makes it give up. */
struct patience {
	/* Runs what the program has installed for signals. Non-zero: an exception is set. May be NULL. */
	int (*run_signal_handlers)(void *context);
	void *context;
	int64_t deadline; /* CLOCK_MONOTONIC, nanoseconds; 0: none */
	int cancelled;	  /* a descriptor that becomes readable, or -1 */
};

/* Texts for /proc/PID/{setgroups,uid_map,gid_map}; NULL: leave unwritten. */
struct maps {
	const char *setgroups, *uid_map, *gid_map;
};

/* ---- descriptors.c: for children, none of them 0, 1 or 2 ---- */

/* Takes over a descriptor, and gives one that is not below *least*, or above 2; of -1 it gives -1. */
int not_below(int fd, int least);
int above_stdio(int fd);
int open_pipe(int ends[2], struct failure *failure);
/* A socket, and not a pipe: it carries descriptors, and answers. */
int open_sockets(int sockets[2], struct failure *failure);
void close_if_open(int fd);
void close_keeping_errno(int fd);

/* procfs.c */
int fail(struct failure *failure, enum step step, int error);
pid_t pid_of(int pidfd, pid_t otherwise);
int open_proc_dir_of(int pidfd); /* or a negative errno; it may have lost its pid meanwhile */
int open_proc_dir(pid_t pid, int pidfd, struct failure *failure);
int fail_in_proc(struct failure *failure, enum step step, int error); /* of what was opened there */
int open_ns(int pidfd, int proc_dir, struct failure *failure); /* the user namespace */
int write_maps(int proc_dir, const struct maps *maps, struct failure *failure);
int proc_to_close_by(struct failure *failure);
/* What the child has failed at may be nothing but its end. */
void failure_of_end(int pidfd, struct failure *failure);

/* end.c: SIGKILL, reap, and close the pidfd. A failure is completed by how a child ended that ended by itself;
 * may be NULL. Returns whether nothing of it is left. */
int end_child(pid_t pid, int pidfd, struct failure *failure);
/* It, and other children that it has made in its process group. */
int end_group(pid_t pid, int pidfd, struct failure *failure);
long pidfd_exit_status(int pidfd);

/* Called while a child exists, has the maps that were to be written, and has not
 * continued. Non-zero: give up. */
struct hook {
	int (*call)(void *context, pid_t pid, int pidfd);
	void *context;
};

struct optional_id {
	int32_t is_set;
	uint32_t id;
};

/* create_userns.c: a namespace whose maps are written at once. */
int create_userns(const struct maps *maps, struct failure *failure);

/* The helper programs. Parameters that are part of the image are found at PROGRAM_PARAMETERS
 * in the memory of the program. What differs from command to command, and may be secret,
 * is not: a launcher gets its arguments and environment by execve(2), the rest by its
 * socket, and stores that on its stack. */
#define PROGRAM_BASE 0x400000ul
#define PROGRAM_PARAMETERS (PROGRAM_BASE + 0x100)

/* What is waited for comes soon, and to be woken takes longer: so often one looks first. */
#define SPINS 100
/* Root in a joined namespace may stop a child again and again: so often it is continued. */
#define MAX_STOPS 50

enum program { PROGRAM_HOLDER, PROGRAM_LAUNCHER };

/* What a child is called until it executes its program. No program can give it
 * that name, for execve(2) names a process after the last part of a path. */
#define NAME_BEFORE_EXEC "usernsproc/exec"
#define NAME_OF_HOLDER "usernsproc-hold"
#define NAME_OF_INIT "usernsproc-init"
#define NAME_OF_MONITOR "usernsproc-run"

struct holder_parameters {
	uint64_t has_lifeline; /* fd 0 is a pidfd of the creating process, else it is closed */
	char name[16];
};

/* The parent with which a child is to end, see die_with_parent() in child.h. */
struct parent_death {
	int32_t signal;      /* 0: never */
	int32_t parent;      /* pid of the creating process */
	int32_t parent_pidfd; /* the same, for when it is out of sight in another pid namespace */
};

/* What a call of the set-up may require. */
enum call_needs { ANY_MEMORY, OWN_MEMORY, OWN_MEMORY_AND_MAPS };

/* In place of the number of a system call: the few things that none does. */
enum own_call {
	CALL_MAKE_LIKE = -1,	 /* directory, name, fd: makes a directory or a file, as the other is */
	CALL_CHOOSE_LIKE = -2,	 /* fd, a, b: a if it is a directory, else b */
	CALL_STORE_ADDRESS = -3, /* pointer to a pointer, pointer: for a structure that holds addresses */
	CALL_IS_SAME = -4,	 /* fd, fd: fails with ESTALE if they are of different files */
	CALL_FORK = -5,		 /* count: another process makes the next so many calls, and exits */
	CALL_IS_EQUAL = -6,	 /* address, address, size: fails with EEXIST if the bytes differ */
};

/* A system call that sets up a process, as data. Bit n of `pointers`: argument n is an offset into the data of the set-up,
 * and stands for its address; of `results`: for the int64_t there, which is the result of an earlier call. If that is
 * negative, an error that was tolerated, the call is left out. */
struct system_call {
	int32_t number, pointers, results;
	int32_t result;	      /* offset of the int64_t that gets its own, or -1 */
	int32_t expected;     /* another result than this is a failure; -1: none is */
	int32_t tolerated[5]; /* errnos, or 0 */
	uint64_t arguments[6];
};

/* They run one after the other, in the child in the caller's memory or in a launcher, in four sections. */
enum section {
	BEFORE_NAMESPACES_ARE_USED, /* by the process that has created them, when pid and time are those of its children */
	FOR_INIT_AND_COMMAND,
	FOR_COMMAND,
	BEFORE_EXEC, /* after the last call of the launcher's own but execve(2) */
	SECTIONS
};

struct descriptors {
	int *fds;
	int count;
};

struct setup {
	const struct system_call *calls;
	char *data;
	uint32_t count, data_size;
	int32_t ends[SECTIONS]; /* of the sections, as indices of calls */
	int32_t needs;	    /* the most of all */
	uint64_t ambient;   /* capabilities to keep over exec, a bit for each */
	struct descriptors fds; /* that the calls use, none of them 0, 1 or 2 */
	int32_t least_fd;	/* the calls may replace descriptors below */
};

/* What is to be executed: the first candidate that exists. */
struct command {
	char *const *argv, *const *envp, *const *candidates;
};

/* A namespace to be entered. */
struct join {
	int32_t fd;
	uint32_t kind; /* CLONE_NEW... */
};

/* Entering namespaces, becoming the id that is to own the new ones, and making
 * these: by clone where that is all, else in a process that shares no memory. */
struct namespaces {
	const struct join *joins;
	uint32_t join_count;
	struct optional_id owner; /* outside */
	uint64_t flags; /* CLONE_NEW... */
};

/* A message of a launcher: where it failed, or that it continues; or that another child does
 * in its place, whose pidfd comes along. */
struct report {
	int32_t step, error;
	int32_t pid; /* of the other child, or 0 */
};

/* So much of them is sent at once: first what a launcher has room for on its stack, which is enough for most. */
#define LAUNCHER_FIRST_CHUNK 0x800
#define LAUNCHER_CHUNK 0x8000

/* How a command below an init ended, which its exit status cannot say: sent to the parent by init. */
struct ending {
	int64_t status;	      /* as of wait4(2); to a monitor also when the command is stopped or continued */
	int64_t user[2], system[2]; /* its CPU time, in seconds and microseconds */
	int64_t cpu_limit;    /* the hard limit RLIMIT_CPU in seconds; -1: none, or unknown */
};

struct launcher_parameters {
	uint64_t size;	    /* of all that is sent: this, and what it points to */
	int32_t is_helper;  /* parks in the end */
	int32_t is_dumpable; /* then: so that its creator may look at it in /proc */
	int32_t group;	     /* its creator's process group; 0: it cannot be named in its pid namespace */
	int32_t init_socket; /* the command runs as the child of an init, which sends a struct ending here; -1: without one */
	int32_t socket;	    /* to its parent; closed by exec */
	int32_t cgroup;	    /* a directory of cgroup v2 to enter, or -1 */
	int32_t proc;	    /* as in struct child */
	struct namespaces namespaces;
	char *const *candidates;
	struct setup setup;
	struct parent_death death;
	uint64_t signal_mask;
	struct holder_parameters holder;
	char name[16], init_name[16];

	/* The launcher is the calling program itself: no parent waits at a socket. */
	int32_t becomes;
	int32_t monitors;	 /* it remains, as the parent of the command */
	int32_t restores_signals; /* that Python ignores */
	int32_t monitor_socket;	 /* on which the monitor gets what an init sends; -1: without one */
	int32_t enters_own_userns; /* the last namespace to enter is one that the caller has created for the command */
	int64_t limits[2];	 /* nanoseconds until the monitor sends SIGTERM, and from then until SIGKILL; 0: no limit */
	const char *messages;	 /* see become.h */
	uint64_t messages_size;
	char monitor_name[16], cgroup_file[16], status_file[16], syscall_file[16];
	char pending_field[16], blocked_field[16], ignored_field[16], caught_field[16];
};

/* Paths in the procfs on its fd 2. */
/* programs.c: the code of one, as bytes to be copied */
struct code {
	const char *start;
	size_t size, entry; /* entry: offset of the first instruction */
};

struct code program_code(enum program program);

/* image.c: whether the caller can do without its children being dumpable. */
int may_inspect_all(void);
/* A descriptor of an executable program.
 * *on_disk: memfds may not be executed here, and it is an unlinked file. */
int make_image(enum program program, const void *parameters, size_t size, int *on_disk, struct failure *failure);
/* The launcher's: one that all share, and that stays open, or one of the call's own. */
void open_shared_image(void);
int launcher_image(int inspects_all, int *is_shared, int *on_disk, struct failure *failure);
/* What a launcher is sent: pointers are offsets in it; free() it. */
struct launcher_parameters *launcher_block(const struct launcher_parameters *parameters, struct failure *failure);

/* spawn.c */
struct plan {
	struct maps maps;
	int is_helper; /* a helper program that inherits nothing but stdio[]: a holder */
	struct command command;
	struct setup setup;
	struct namespaces namespaces;
	int is_init;
	int stdio[3];	   /* to become 0, 1, 2; -1: leave */
	struct descriptors keep; /* ascending, from 3 on: those that are passed on */
	int close_fds, restore_signals;
	int cgroup;	  /* a directory of cgroup v2 to start in, or -1 */
	const uint64_t *signal_mask; /* NULL: that of the calling thread */
	int death_signal; /* sent when the creating process ends; 0: none */
	struct hook hook; /* its `call` may be NULL */
	int is_hidden;	       /* the caller gets no SIGCHLD, and its waitpid(-1) does not find it */
	struct reaper *reaper; /* its parent in place of the caller, then; else NULL */
	struct patience patience;
};

struct spawned {
	pid_t pid;
	int pidfd;
	int ending;   /* the socket on which an init sends a struct ending, or -1 */
	int proc_dir; /* until it runs: its directory in /proc, or -1 */
	int image_on_disk;
	struct reaper *reaper; /* to be ended after the child; NULL: it is the caller's */
};

int spawn(const struct plan *plan, struct spawned *spawned, struct failure *failure);

/* become.c: what the calling program itself becomes. Returns, with -1, only if nothing has changed. */
struct becoming {
	int monitors, enters_own_userns;
	int64_t limits[2]; /* as in struct launcher_parameters */
	const char *messages;
	size_t messages_size;
};

int become(const struct plan *plan, const struct becoming *becoming, struct failure *failure);

/* generation.c: 1 in the first process of the program, another number in each copy of it. */
int set_up_generation(void);
uint64_t generation(void);
/* A lock that is free in a new copy, whichever thread had it. */
enum lock { LOCK_SELF, LOCK_PROC, LOCKS };
int *lock_of_copy(enum lock lock);

/* debugger.c: CLONE_UNTRACED for a child in our memory that executes a program, or 0. */
unsigned long flag_against_debugger(void);

#endif

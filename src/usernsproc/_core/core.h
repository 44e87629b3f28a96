/* What the files of the core have in common.
 *
 *   module*.c     the only files that see Python.h: convert, call, translate failures
 *   transient.c   a child that exists while one call runs: makes a namespace
 *   spawn.c       the parent's side of a command or a holder
 *   report.c      what a launcher tells
 *   birth.c       clone for these, and the thread that keeps a child
 *   foster.c      a parent for children of whose end nobody else shall hear
 *   map_reader.c  asks a namespace for its maps
 *   child.c       the child's side; runs in the parent's memory
 *   programs.c    code that is copied into tiny programs of ours, and runs alone
 *   launcher.h    the largest of these: enters namespaces, takes ids, executes
 *   image.c       makes such a program, as a sealed memfd
 *   stack.c       memory for a child that shares ours; signal masks
 *   procfs.c      /proc/PID as a directory, maps, liveness
 *   forks.c       whether this is a forked copy of the program
 *   tracer.c      whether a debugger follows
 *   rawsys.h      system calls without libc
 *
 * Functions return -1 (or NULL) and fill a `struct failure`: the step that
 * failed and its errno. Wording is left to Python.
 */
#ifndef USERNSPROC_CORE_H
#define USERNSPROC_CORE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define STEPS(X)                \
	X(none)                 \
	X(prepare)              \
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
	X(propagation)          \
	X(mount_proc)           \
	X(chdir)                \
	X(setsid)               \
	X(setpgid)              \
	X(setid)                \
	X(init)                 \
	X(capabilities)         \
	X(no_new_privs)         \
	X(exec)                 \
	X(read_map)

#define STEP_ENUM(name) STEP_##name,
enum step { STEPS(STEP_ENUM) STEP_COUNT };
#undef STEP_ENUM

struct failure {
	int32_t step;
	int32_t error;
};

/* Texts for /proc/PID/{setgroups,uid_map,gid_map}; NULL: leave unwritten. */
struct maps {
	const char *setgroups, *uid_map, *gid_map;
};

/* procfs.c */
int fail(struct failure *failure, enum step step, int error);
pid_t pid_in_proc(pid_t pid, int pidfd);
pid_t pid_of(int pidfd, pid_t otherwise);
int open_proc_dir(pid_t pid, int pidfd, struct failure *failure);
int write_maps(int proc_dir, const struct maps *maps, struct failure *failure);
int has_ended_within(int pidfd, int milliseconds); /* -1: whenever */
int has_ended(int pidfd);
void blame_its_end(int pidfd, struct failure *failure);
void kill_and_reap(pid_t pid, int pidfd);
void kill_and_reap_group(pid_t leader, int pidfd);
/* What is waited for comes soon, and to be woken takes longer: so often one looks first. */
#define LOOKS_WITHOUT_SLEEP 100
/* Root in a joined namespace may stop a child, but shall not stop us: wait for so long,
 * look, and give up at last. */
#define LOOK_MILLISECONDS 10
#define MOST_STOPS 50
int continue_if_stopped(int pidfd);
long pidfd_exit_status(int pidfd);

/* Called while a child exists, has the maps that were to be written, and has not
 * gone on. Non-zero: give up. */
struct between {
	int (*call)(void *context, pid_t pid, int pidfd);
	void *context;
};

/* transient.c; `between` may be NULL */
int create_userns(const struct maps *maps, const struct between *between, struct failure *failure);
/* One that this id owns; not the own one. */
int create_userns_of(uint32_t owner, const struct maps *maps, const struct between *between,
		     struct failure *failure);

/* The tiny programs. Their parameters are part of the image and are found at
 * PROGRAM_PARAMETERS in the memory of the program. */
#define PROGRAM_BASE 0x400000ul
#define PROGRAM_PARAMETERS (PROGRAM_BASE + 0x100)

enum program { PROGRAM_HOLDER, PROGRAM_LAUNCHER, PROGRAM_MAP_READER };

/* What a child is called until it executes its program. No program can give it
 * that name, for execve(2) names a process after the last part of a path. */
#define NAME_BEFORE_EXEC "usernsproc/exec"
#define NAME_OF_HOLDER "usernsproc-hold"
#define NAME_OF_INIT "usernsproc-init"

struct holder_parameters {
	uint64_t has_lifeline; /* fd 0 is a pidfd of the creating process, else it is closed */
	char name[16];
};

/* Who is asked to die with whom, see die_with_parent() in child.h. */
struct parent_death {
	int32_t signal;      /* 0: never */
	int32_t parent;      /* pid of the creating process */
	int32_t parent_pidfd; /* the same, for when it is out of sight in another pid namespace */
};

struct optional_id {
	int32_t is_set;
	uint32_t id;
};

struct credentials {
	struct optional_id uid, gid;
	int32_t set_groups;
	uint32_t group_count;
	const uint32_t *groups;
};

/* What is to be executed: the first candidate that exists. */
struct command {
	char *const *argv, *const *envp, *const *candidates;
};

/* What the command may do. */
struct privileges {
	uint64_t ambient; /* capabilities to keep over exec, a bit for each */
	int32_t no_new_privs;
};

/* Where the command runs, and as part of what. */
struct place {
	const char *cwd; /* NULL: leave */
	uint64_t propagation; /* MS_... of all mounts of a new mount namespace; 0: leave */
	int32_t mount_proc;
	int32_t umask, process_group; /* -1: leave */
	int32_t start_new_session;
	char root[2], proc_type[5], proc[6]; /* a program has no strings but these */
};
#define NAMES_OF_PLACE .root = "/", .proc_type = "proc", .proc = "/proc"

/* A namespace to be entered. */
struct join {
	int32_t fd;
	uint32_t kind; /* CLONE_NEW... */
};

/* Entering namespaces, becoming the id that is to own the new ones, and making
 * these: by clone where that is all, else in a process that shares no memory. */
struct founding {
	const struct join *joins;
	uint32_t join_count;
	struct optional_id owner; /* outside */
	uint64_t namespaces; /* CLONE_NEW... */
};

/* What the launcher tells: where it failed; or nothing, and the pid of another
 * child that goes on in its place, whose pidfd comes along, or 0. */
struct report {
	struct failure failure;
	int32_t pid;
};

struct launcher_parameters {
	int32_t is_holder;  /* parks in the end */
	int32_t is_dumpable; /* then: so that its creator may look at it in /proc */
	int32_t has_group;   /* its creator's process group can be named, where it is */
	int32_t is_init;    /* the command runs as its child */
	int32_t report;	    /* a socket; closed by exec */
	struct founding founding;
	struct command command;
	struct place place;
	struct credentials credentials;
	struct privileges privileges;
	struct parent_death death;
	uint64_t signal_mask;
	struct holder_parameters holder;
	char name[16], init_name[16];
};

struct map_reader_parameters {
	char uid_map[24], gid_map[24], setgroups[24];
};

/* image.c: whether the caller can do without its children being dumpable. */
int may_inspect_all(void);
/* A descriptor of an executable program. *on_disk tells whether
 * memfds may not be executed here and an unlinked file had to do. */
int make_image(enum program program, const void *parameters, size_t size, int *on_disk,
	       struct failure *failure);
int make_launcher_image(const struct launcher_parameters *parameters, int *on_disk,
			struct failure *failure);

/* spawn.c */
struct plan {
	struct maps maps;
	int is_alone; /* a program of ours that inherits nothing but stdio[]: a holder, a map reader */
	struct command command;
	struct place place;
	struct founding founding;
	int is_init;
	int stdio[3];	   /* to become 0, 1, 2; -1: leave */
	int *keep;	   /* ascending; descriptors from 3 on that are passed on */
	int keep_count;
	int close_fds, restore_signals;
	struct credentials credentials;
	struct privileges privileges;
	int cgroup;	  /* a directory of cgroup v2 to start in, or -1 */
	const uint64_t *signal_mask; /* NULL: that of the calling thread */
	int death_signal; /* sent when the creating process ends; 0: none */
	/* Called while the child exists, is mapped and has not gone on; may be
	 * NULL. Non-zero: give up. */
	int (*between)(void *context, pid_t pid, int pidfd);
	void *between_context;
	struct foster *foster; /* who is its parent in our place; NULL: we are */
};

struct spawned {
	pid_t pid;
	int pidfd;
	int proc_dir; /* until it runs: its directory in /proc, or -1 */
	int image_on_disk;
	int in_cgroup; /* not only asked for: placed by clone */
};

int spawn(const struct plan *plan, struct spawned *spawned, struct failure *failure);

/* map_reader.c: uid_map, gid_map, setgroups, with a NUL between. Returns the length. */
ssize_t read_maps(int userns, char *buffer, size_t size, struct failure *failure);

/* forks.c: 1 in the first process of the program, another number in each copy of it. */
int set_up_generation(void);
uint64_t generation(void);

/* tracer.c: CLONE_UNTRACED for a child in our memory that executes a program, or 0. */
unsigned long flag_against_debugger(void);

#endif

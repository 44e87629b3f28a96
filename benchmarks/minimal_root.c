/* The system calls that the minimal root of sandbox.py cannot do without, and nothing else: no checks of paths, no
 * errors with a cause. Prints the median microseconds of a /bin/true in it.
 *
 *   minimal_root COUNT
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static const char *const links[][2] = {
	{"usr/bin", "bin"},		   {"usr/sbin", "sbin"},	      {"usr/lib", "lib"},
	{"usr/lib64", "lib64"},		   {"pts/ptmx", "dev/ptmx"},	      {"/proc/self/fd", "dev/fd"},
	{"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"},
};
static const char *const directories[] = {"usr", "etc", "tmp", "proc", "dev", "dev/pts", "dev/shm"};
static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"};
static const char *const bound[] = {"/usr", "/etc", "/proc"};

static long must(long result, const char *what)
{
	if (result < 0)
		err(1, "%s", what);
	return result;
}

static int copy_of(const char *path, unsigned flags)
{
	return (int)must(syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags), path);
}

/* At the same path below the working directory. */
static void attach(int tree, const char *path)
{
	must(syscall(SYS_move_mount, tree, "", AT_FDCWD, path + 1, MOVE_MOUNT_F_EMPTY_PATH), path);
	close(tree);
}

static void mount_new(const char *kind, const char *path, const char *options)
{
	must(mount(kind, path, kind, MS_NOSUID, options), path);
}

static void make_root(void)
{
	struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
	int trees[LENGTH(bound)], nodes[LENGTH(devices)];

	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
	for (size_t i = 0; i < LENGTH(bound); i++) {
		trees[i] = copy_of(bound[i], AT_RECURSIVE);
		if (i < 2)
			must(syscall(SYS_mount_setattr, trees[i], "", AT_EMPTY_PATH | AT_RECURSIVE, &read_only,
				     sizeof(read_only)), "mount_setattr");
	}
	for (size_t i = 0; i < LENGTH(devices); i++)
		nodes[i] = copy_of(devices[i], 0);
	mount_new("tmpfs", "/mnt", "mode=755");
	must(chdir("/mnt"), "chdir");
	for (size_t i = 0; i < 5; i++)
		must(mkdir(directories[i], 0755), directories[i]);
	mount_new("tmpfs", "tmp", "mode=1777");
	mount_new("tmpfs", "dev", "mode=755");
	for (size_t i = 5; i < LENGTH(directories); i++)
		must(mkdir(directories[i], 0755), directories[i]);
	for (size_t i = 0; i < LENGTH(links); i++)
		must(symlink(links[i][0], links[i][1]), links[i][1]);
	for (size_t i = 0; i < LENGTH(bound); i++)
		attach(trees[i], bound[i]);
	for (size_t i = 0; i < LENGTH(devices); i++) {
		close((int)must(open(devices[i] + 1, O_CREAT | O_WRONLY, 0666), devices[i]));
		attach(nodes[i], devices[i]);
	}
	mount_new("devpts", "dev/pts", "newinstance,ptmxmode=0666,mode=620");
	must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	must(umount2(".", MNT_DETACH), "umount2");
	must(chdir("/"), "chdir");
}

static int is_mapped;

static int child(void *nothing)
{
	char *argv[] = {"/bin/true", NULL}, *envp[] = {NULL};

	(void)nothing;
	while (!__atomic_load_n(&is_mapped, __ATOMIC_ACQUIRE))
		sched_yield();
	make_root();
	execve(argv[0], argv, envp);
	_exit(1);
}

static void write_file(pid_t pid, const char *name, const char *text)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = (int)must(open(path, O_WRONLY), path);
	must(write(fd, text, strlen(text)), path);
	close(fd);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static double once(void)
{
	static char stack[1 << 16] __attribute__((aligned(16)));
	char uid_map[32], gid_map[32];
	double start = now();
	int status;
	pid_t pid;

	is_mapped = 0;
	pid = clone(child, stack + sizeof(stack), CLONE_VM | CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | SIGCHLD, NULL);
	must(pid, "clone");
	snprintf(uid_map, sizeof(uid_map), "%u %u 1\n", getuid(), getuid());
	snprintf(gid_map, sizeof(gid_map), "%u %u 1\n", getgid(), getgid());
	write_file(pid, "setgroups", "deny");
	write_file(pid, "uid_map", uid_map);
	write_file(pid, "gid_map", gid_map);
	__atomic_store_n(&is_mapped, 1, __ATOMIC_RELEASE);
	must(waitpid(pid, &status, 0), "waitpid");
	if (status != 0)
		errx(1, "the command failed");
	return now() - start;
}

static int by_size(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
	int count = argc == 2 ? atoi(argv[1]) : 0;
	double *times = calloc((size_t)count + 1, sizeof(*times));

	if (count < 1 || !times)
		errx(1, "usage: minimal_root COUNT");
	for (int i = 0; i < count; i++)
		times[i] = once();
	qsort(times, (size_t)count, sizeof(*times), by_size);
	printf("%.1f\n", times[count / 2]);
	return 0;
}

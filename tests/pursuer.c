/* Root in a user and a PID namespace, which attacks every process that enters.
 *
 * pursuer MODE SECRET-REVERSED-IN-HEX ADDRESS PATH USER-FD PID-FD MNT-FD|-1
 *
 * It enters the namespaces, shows itself a /proc of the pid namespace, says "ready", and until
 * its input ends tries on each process that it sees whatever could give it the secret: in memory
 * (at ADDRESS, or anywhere), in the environment, in an open file, in the file PATH as seen from the
 * process's root or working directory. Then it prints what it got, a word and a number per line.
 * MODE is "look"; or "stop", to stop each first; or "kill", to do nothing but that.
 *
 * It has no copy of the secret of its own, which it would find. In C, for the time to get at
 * a process is short.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE 32
#define DESCRIPTORS 24
#define MOST_OF_A_MAPPING (1 << 21)
#define THREADS 2

enum got { SEEN, REFUSED, TRACED, MEMORY, AT_ADDRESS, ENVIRONMENT, TAKEN, OPENED, ROOT, DIRECTORY, OURS, WORDS };
static const char *const words[WORDS] = {"seen",  "refused", "traced", "memory",    "address", "environment",
					 "taken", "opened",  "root",   "directory", "ours"};
static long counts[WORDS];

static unsigned char reversed[SIZE];
static unsigned long address;
static const char *mode, *path;
static volatile int done;

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(3);
	}
}

static void count(enum got what)
{
	__atomic_add_fetch(&counts[what], 1, __ATOMIC_RELAXED);
}

static int has_secret(const unsigned char *text, long length)
{
	for (long at = 0; at + SIZE <= length; at++) {
		int i = 0;

		while (i < SIZE && text[at + i] == reversed[SIZE - 1 - i])
			i++;
		if (i == SIZE)
			return 1;
	}
	return 0;
}

/* Whether it could be opened; what is found in it is counted. */
static int search_file(const char *format, int pid, int number, enum got what)
{
	char name[256];
	unsigned char text[4096];
	int fd;
	long length;

	snprintf(name, sizeof(name), format, pid, number);
	fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return errno != EACCES && errno != EPERM;
	length = pread(fd, text, sizeof(text), 0);
	if (has_secret(text, length))
		count(what);
	close(fd);
	return 1;
}

static void search_memory(int pid)
{
	char name[64], line[512];
	unsigned char *text = malloc(MOST_OF_A_MAPPING);
	FILE *maps;
	int mem;

	snprintf(name, sizeof(name), "/proc/%d/mem", pid);
	mem = open(name, O_RDONLY | O_CLOEXEC);
	snprintf(name, sizeof(name), "/proc/%d/maps", pid);
	maps = fopen(name, "re");
	while (mem >= 0 && maps && fgets(line, sizeof(line), maps)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx", &start, &end) != 2 || end - start > MOST_OF_A_MAPPING)
			continue;
		if (has_secret(text, pread(mem, text, end - start, (off_t)start)))
			count(MEMORY);
	}
	if (maps)
		fclose(maps);
	if (mem >= 0)
		close(mem);
	free(text);
}

static void read_at_address(int pid)
{
	unsigned char text[SIZE];
	struct iovec own = {text, SIZE}, its = {(void *)address, SIZE};

	if (process_vm_readv(pid, &own, 1, &its, 1, 0) == SIZE && has_secret(text, SIZE))
		count(AT_ADDRESS);
}

/* A descriptor that no command has: of the program that starts it. */
static void look_at(int fd)
{
	char name[64], link[256];
	unsigned char text[4096];
	long length;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	length = readlink(name, link, sizeof(link) - 1);
	link[length > 0 ? length : 0] = 0;
	if (strncmp(link, "/memfd:", 7) == 0 || strncmp(link, "anon_inode:", 11) == 0 || strstr(link, ":["))
		count(OURS);
	if (has_secret(text, pread(fd, text, sizeof(text), 0)))
		count(TAKEN);
}

static void take_descriptors(int pid)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (pidfd < 0)
		return;
	for (int number = 0; number < DESCRIPTORS; number++) {
		int fd = (int)syscall(438 /* pidfd_getfd */, pidfd, number, 0);

		if (fd >= 0) {
			look_at(fd);
			close(fd);
		} else if (errno == EPERM) {
			count(REFUSED);
			break;
		}
	}
	close(pidfd);
}

static void open_descriptors(int pid)
{
	for (int number = 0; number < DESCRIPTORS; number++) /* some files cannot be opened by anybody */
		search_file("/proc/%d/fd/%d", pid, number, OPENED);
}

static void trace(int pid, int how)
{
	int status;

	if (ptrace(how, pid, 0, 0) < 0) {
		if (errno == EPERM)
			count(REFUSED);
		return;
	}
	count(TRACED);
	if (how == PTRACE_SEIZE)
		ptrace(PTRACE_INTERRUPT, pid, 0, 0);
	if (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
		search_memory(pid);
		ptrace(PTRACE_DETACH, pid, 0, 0);
	}
	kill(pid, SIGCONT); /* whatever it was stopped by */
}

static void attack(int pid, unsigned turn)
{
	char root[300], directory[300];

	count(SEEN);
	if (strcmp(mode, "kill") == 0) {
		kill(pid, SIGKILL);
		return;
	}
	if (strcmp(mode, "stop") == 0)
		kill(pid, SIGSTOP);
	read_at_address(pid);
	take_descriptors(pid);
	snprintf(root, sizeof(root), "/proc/%%d/root%s", path);
	snprintf(directory, sizeof(directory), "/proc/%%d/cwd%s", path);
	search_file(root, pid, 0, ROOT);
	search_file(directory, pid, 0, DIRECTORY);
	open_descriptors(pid);
	search_file("/proc/%d/environ", pid, 0, ENVIRONMENT);
	trace(pid, turn % 2 ? PTRACE_SEIZE : PTRACE_ATTACH);
	search_memory(pid);
	if (strcmp(mode, "stop") == 0)
		kill(pid, SIGCONT);
}

static void *pursue(void *ignored)
{
	DIR *proc = opendir("/proc");
	unsigned turn = 0;

	must(proc != NULL, "/proc");
	while (!done) {
		struct dirent *entry;

		rewinddir(proc);
		while ((entry = readdir(proc))) {
			int pid = atoi(entry->d_name);

			if (pid > 1 && pid != getpid())
				attack(pid, turn++);
		}
	}
	closedir(proc);
	return ignored;
}

static void pursue_until_told(void)
{
	pthread_t threads[THREADS];
	char byte;

	must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "private");
	must(mount("proc", "/proc", "proc", 0, NULL) == 0, "proc");
	for (int i = 0; i < THREADS; i++)
		must(pthread_create(&threads[i], NULL, pursue, NULL) == 0, "thread");
	puts("ready");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	done = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < WORDS; i++)
		printf("%s %ld\n", words[i], counts[i]);
}

int main(int argc, char **argv)
{
	pid_t pid;
	int status;

	must(argc == 8, "arguments");
	mode = argv[1];
	for (int i = 0; i < SIZE; i++)
		must(sscanf(argv[2] + 2 * i, "%2hhx", &reversed[i]) == 1, "secret");
	address = strtoul(argv[3], NULL, 10);
	path = argv[4];
	must(setns(atoi(argv[5]), CLONE_NEWUSER) == 0, "user");
	must(setns(atoi(argv[6]), CLONE_NEWPID) == 0, "pid");
	if (atoi(argv[7]) >= 0)
		must(setns(atoi(argv[7]), CLONE_NEWNS) == 0, "mnt");
	must(setgroups(0, NULL) == 0 || errno == EPERM, "setgroups");
	must(setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0, "ids");
	must(unshare(CLONE_NEWNS) == 0, "unshare");
	pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0) {
		pursue_until_told();
		return 0;
	}
	must(waitpid(pid, &status, 0) == pid, "wait");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 4;
}

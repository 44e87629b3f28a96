/* The system calls of one create_userns(), in plain C: what it is compared with.
 *
 *   create_userns COUNT  ->  microseconds per cycle, the median
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STACK 0x10000

static __attribute__((noreturn)) int park(void *unused)
{
	(void)unused;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	getppid();
	for (;;)
		syscall(SYS_ppoll, NULL, 0, NULL, NULL, 8);
}

static void must(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

static void write_file(int directory, const char *name, const char *text)
{
	int fd = openat(directory, name, O_WRONLY | O_CLOEXEC);

	must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), name);
	close(fd);
}

static void cycle(const char *map)
{
	char path[32];
	char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int pidfd = -1, directory, userns, self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	struct pollfd child;
	sigset_t all, old;
	siginfo_t info;
	pid_t pid;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	pid = clone(park, stack + STACK, CLONE_NEWUSER | CLONE_VM | CLONE_FILES | CLONE_PIDFD, NULL, &pidfd);
	sigprocmask(SIG_SETMASK, &old, NULL);
	must(pid > 0, "clone");
	snprintf(path, sizeof(path), "/proc/%d", pid);
	directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	must(directory >= 0, path);
	child = (struct pollfd){.fd = pidfd, .events = POLLIN};
	must(poll(&child, 1, 0) == 0, "poll");
	if (geteuid() != 0)
		write_file(directory, "setgroups", "deny");
	write_file(directory, "uid_map", map);
	write_file(directory, "gid_map", map);
	userns = openat(directory, "ns/user", O_RDONLY | O_CLOEXEC);
	must(userns >= 0, "ns/user");
	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	must(waitid(P_PIDFD, pidfd, &info, WEXITED | __WALL) == 0, "waitid");
	close(directory);
	close(pidfd);
	close(self);
	munmap(stack, STACK);
	close(userns);
}

static double microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 1000;
	double *times = calloc((size_t)count, sizeof(double));
	char map[32];

	if (geteuid() == 0)
		snprintf(map, sizeof(map), "0 100000 65536\n");
	else
		snprintf(map, sizeof(map), "0 %d 1\n", geteuid());
	for (int i = 0; i < count; i++) {
		double start = microseconds();
		cycle(map);
		times[i] = microseconds() - start;
	}
	qsort(times, (size_t)count, sizeof(double), ascending);
	printf("%.2f\n", times[count / 2]);
	return 0;
}

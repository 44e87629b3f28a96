/* How many forks this copy of the program is away from the first.
 *
 * Python's own hooks see only the forks that Python makes. uWSGI, and any other program
 * or library in C, forks without them, by fork(2) or by clone(2). The kernel sees all of
 * them: the page with the number arrives empty in a copy (MADV_WIPEONFORK), and the copy
 * then takes the next number. A child that shares its memory with the parent, as that of
 * vfork(2), is not a copy.
 */
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core.h"

/* What a copy does not have. */
struct wiped {
	uint64_t generation;
	int locks[LOCKS];
};

static struct wiped *wiped; /* NULL: there was no memory for it */
static uint64_t last;

static void wipe(void)
{
	__atomic_store_n(&wiped->generation, 0, __ATOMIC_RELAXED);
	for (int i = 0; i < LOCKS; i++)
		__atomic_store_n(&wiped->locks[i], 0, __ATOMIC_RELAXED);
}

/* Where the kernel does not wipe (gVisor, a seccomp filter), libc sees at least its own fork(). */
static void set_up(void)
{
	size_t size = (size_t)sysconf(_SC_PAGESIZE);
	void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		return;
	wiped = page;
	if (madvise(page, size, MADV_WIPEONFORK) < 0 && pthread_atfork(NULL, NULL, wipe) != 0) {
		wiped = NULL;
		munmap(page, size);
	}
}

int set_up_generation(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, set_up);
	return wiped ? 0 : -1;
}

/* Of several threads that come first at once, all get the number of the fastest. */
uint64_t generation(void)
{
	uint64_t now = __atomic_load_n(&wiped->generation, __ATOMIC_RELAXED), next;

	if (now)
		return now;
	next = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
	return __atomic_compare_exchange_n(&wiped->generation, &now, next, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)
		       ? next
		       : now;
}

int *lock_of_copy(enum lock lock)
{
	return &wiped->locks[lock];
}

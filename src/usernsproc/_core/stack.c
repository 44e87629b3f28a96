#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "inline.h"
#include "stack.h"

#define STACK_SIZE 0x10000

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* Some are kept for the next child: mapping, touching and unmapping memory costs
 * several times what the rest of a call does, the more so with many threads.
 * Each slot is exchanged as a whole: no lock that a fork could find taken. */
#define SPARES 8
static struct child *spares[SPARES];

/* The kernel clears the word when the process leaves this memory. */
static int is_in_use(const struct child *child)
{
	return __atomic_load_n(&child->tid, __ATOMIC_ACQUIRE) != 0;
}

static int put_spare(struct child *child)
{
	for (int i = 0; i < SPARES; i++) {
		struct child *empty = NULL;

		if (__atomic_compare_exchange_n(&spares[i], &empty, child, 0, __ATOMIC_RELEASE,
						__ATOMIC_RELAXED))
			return 1;
	}
	return 0;
}

static struct child *take_spare(void)
{
	struct child *child;

	for (int i = 0; i < SPARES; i++) {
		if (!__atomic_load_n(&spares[i], __ATOMIC_RELAXED))
			continue;
		child = __atomic_exchange_n(&spares[i], NULL, __ATOMIC_ACQUIRE);
		if (child && !is_in_use(child))
			return child;
		if (child)
			put_spare(child);
	}
	return NULL;
}

/* From below: a page that cannot be touched, the stack, the struct child. */
static struct child *map_child(void)
{
	size_t guard = page_size();
	char *memory = mmap(NULL, guard + STACK_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	if (mprotect(memory + guard, STACK_SIZE, PROT_READ | PROT_WRITE) < 0) {
		munmap(memory, guard + STACK_SIZE);
		return NULL;
	}
	return (struct child *)(memory + guard + STACK_SIZE - ((sizeof(struct child) + 63) & ~(size_t)63));
}

static void unmap_child(struct child *child)
{
	size_t guard = page_size();
	uintptr_t end = ((uintptr_t)child + sizeof(struct child) + guard - 1) & ~(uintptr_t)(guard - 1);

	munmap((void *)(end - STACK_SIZE - guard), guard + STACK_SIZE);
}

struct child *allocate_child(void)
{
	struct child *child;

	child = take_spare();
	if (!child)
		child = map_child();
	if (!child)
		return NULL;
	memset(child, 0, sizeof(*child));
	child->image = child->socket = child->init_socket = child->cgroup = child->proc = -1;
	child->death.parent_pidfd = child->self.fd = -1;
	return child;
}

void free_child(struct child *child)
{
	/* What is in use is kept, or in the worst case never given back. */
	if (!put_spare(child) && !is_in_use(child))
		unmap_child(child);
}

char *const no_environment[] = {NULL};

void set_image(struct child *child, int image, char *const *argv, char *const *envp)
{
	child->image = image;
	child->image_argv = argv;
	child->image_envp = envp;
}

uint64_t block_signals(void)
{
	uint64_t all = ~(uint64_t)0, old = 0;

	RAW4(rt_sigprocmask, SIG_BLOCK, &all, &old, KERNEL_SIGSET_SIZE);
	return old;
}

void restore_signals(uint64_t mask)
{
	set_signal_mask(mask);
}

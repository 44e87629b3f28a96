#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "inline.h"
#include "stack.h"

#define STACK_SIZE 0x10000

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* From below: a page that cannot be touched, the stack, the struct child. */
struct child *allocate_child(void)
{
	size_t guard = page_size();
	char *memory = mmap(NULL, guard + STACK_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct child *child;

	if (memory == MAP_FAILED)
		return NULL;
	if (mprotect(memory + guard, STACK_SIZE, PROT_READ | PROT_WRITE) < 0) {
		munmap(memory, guard + STACK_SIZE);
		return NULL;
	}
	child = (struct child *)(memory + guard + STACK_SIZE - ((sizeof(struct child) + 63) & ~(size_t)63));
	child->image = child->report = child->death.parent_pidfd = -1;
	return child;
}

void free_child(struct child *child)
{
	size_t guard = page_size();
	uintptr_t end = ((uintptr_t)child + sizeof(struct child) + guard - 1) & ~(uintptr_t)(guard - 1);

	munmap((void *)(end - STACK_SIZE - guard), guard + STACK_SIZE);
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

/* Memory for a child that shares the caller's: its stack, and its struct child on top. */
#ifndef USERNSPROC_STACK_H
#define USERNSPROC_STACK_H

#include "child.h"

/* What a child may use of its stack; more is mapped. */
#define STACK_USED 0x8000

/* NULL: no memory, see errno. The child comes zeroed, its descriptors -1. */
struct child *allocate_child(void);
/* It is used again when the process has left this memory, which may be later. */
void free_child(struct child *child);

/* What raw_clone() takes: the struct child itself is the top of the stack. */
static inline char *stack_of(struct child *child)
{
	return (char *)((uintptr_t)child & ~(uintptr_t)15);
}

/* Any address below. */
static inline char *stack_bottom_of(struct child *child)
{
	return stack_of(child) - STACK_USED;
}

/* What the child is to execute: one of the helper programs. */
extern char *const no_environment[];
void set_image(struct child *child, int image, char *const *argv, char *const *envp);

/* Block every signal; gives the mask to restore. */
uint64_t block_signals(void);
void restore_signals(uint64_t mask);

#endif

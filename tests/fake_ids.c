/* As fakeroot(1) does it: a program that preloads this is shown other IDs than the kernel has. */
#include <unistd.h>

uid_t getuid(void) { return 7; }
uid_t geteuid(void) { return 7; }
gid_t getgid(void) { return 7; }
gid_t getegid(void) { return 7; }
int getresuid(uid_t *real, uid_t *effective, uid_t *saved) { *real = *effective = *saved = 7; return 0; }
int getresgid(gid_t *real, gid_t *effective, gid_t *saved) { *real = *effective = *saved = 7; return 0; }

/* A helper program, put together at run time in a sealed memfd.
 *
 *   0      ELF header, program headers
 *   0x100  the parameters
 *   ...    the code
 *
 * The whole file is one segment, mapped at PROGRAM_BASE without write access. It holds nothing
 * that differs from command to command: it may have to lie on a disk.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include "inline.h"
#include "proven_proc.h"

/* Nothing was ever mapped writable, so there is nothing but the future that F_SEAL_WRITE
 * would look for: it empties the processor's lists of pages for that, which takes longer
 * than to write the image. */
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
#elif defined(__riscv)
#define MACHINE 243 /* EM_RISCV */
#elif defined(__s390x__)
#define MACHINE EM_S390
#else
#define MACHINE EM_PPC64
#endif

#if defined(__powerpc64__)
#define ELF_FLAGS 2 /* ABI version 2: the entry is an address, not a descriptor */
#else
#define ELF_FLAGS 0
#endif

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define DATA_ORDER ELFDATA2MSB
#else
#define DATA_ORDER ELFDATA2LSB
#endif

#define SEGMENT_ALIGNMENT 0x10000ul /* the largest page size */
#define PARAMETERS_OFFSET (PROGRAM_PARAMETERS - PROGRAM_BASE)

struct headers {
	Elf64_Ehdr elf;
	Elf64_Phdr segment, stack;
};

static void write_headers(struct headers *headers, size_t size, size_t entry)
{
	Elf64_Ehdr *elf = &headers->elf;

	memcpy(elf->e_ident, ELFMAG, SELFMAG);
	elf->e_ident[EI_CLASS] = ELFCLASS64;
	elf->e_ident[EI_DATA] = DATA_ORDER;
	elf->e_ident[EI_VERSION] = EV_CURRENT;
	elf->e_type = ET_EXEC;
	elf->e_machine = MACHINE;
	elf->e_version = EV_CURRENT;
	elf->e_flags = ELF_FLAGS;
	elf->e_entry = PROGRAM_BASE + entry;
	elf->e_phoff = offsetof(struct headers, segment);
	elf->e_ehsize = sizeof(Elf64_Ehdr);
	elf->e_phentsize = sizeof(Elf64_Phdr);
	elf->e_phnum = 2;
	headers->segment.p_type = PT_LOAD;
	headers->segment.p_flags = PF_R | PF_X;
	headers->segment.p_vaddr = headers->segment.p_paddr = PROGRAM_BASE;
	headers->segment.p_filesz = headers->segment.p_memsz = size;
	headers->segment.p_align = SEGMENT_ALIGNMENT;
	headers->stack.p_type = PT_GNU_STACK;
	headers->stack.p_flags = PF_R | PF_W;
}

#define CODE_ALIGNMENT 16ul

enum { PARTS = 4 };

/* Its parts, which are never put together in memory. */
struct image {
	union {
		struct headers headers;
		char space[PARAMETERS_OFFSET];
	} start;
	struct iovec parts[PARTS];
};

static struct iovec part(const void *data, size_t size)
{
	return (struct iovec){(void *)(uintptr_t)data, size};
}

static size_t set_parts(struct image *image, enum program program, const void *parameters, size_t parameters_size)
{
	static const char padding[CODE_ALIGNMENT];
	struct code code = program_code(program);
	size_t parameters_end = PARAMETERS_OFFSET + parameters_size;
	size_t code_offset = (parameters_end + CODE_ALIGNMENT - 1) & ~(CODE_ALIGNMENT - 1);

	memset(&image->start, 0, sizeof(image->start));
	write_headers(&image->start.headers, code_offset + code.size, code_offset + code.entry);
	image->parts[0] = part(&image->start, sizeof(image->start));
	image->parts[1] = part(parameters, parameters_size);
	image->parts[2] = part(padding, code_offset - parameters_end);
	image->parts[3] = part(code.start, code.size);
	return code_offset + code.size;
}

int may_inspect_all(void)
{
	struct capabilities own;

	return geteuid() == 0 && get_capabilities(&own) == 0 && own.low.effective & 1u << CAP_SYS_PTRACE;
}

/* Not readable for any user where the caller can live with a process it may
 * inspect by its CAP_SYS_PTRACE only: such a program's memory belongs to the
 * outer namespace (would_dump() in the kernel), so that inside root cannot
 * ptrace it. Others could no longer open their own child's files in /proc. */
static mode_t image_mode(int inspects_all)
{
	return inspects_all ? 0111 : 0755;
}

static int write_image(int fd, const struct image *image)
{
	struct iovec parts[PARTS], *next = parts;

	memcpy(parts, image->parts, sizeof(parts));
	while (next < parts + PARTS) {
		ssize_t written = writev(fd, next, (int)(parts + PARTS - next));

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return -1;
		for (; next < parts + PARTS && (size_t)written >= next->iov_len; next++)
			written -= (ssize_t)next->iov_len;
		if (next < parts + PARTS)
			*next = part((char *)next->iov_base + written, next->iov_len - (size_t)written);
	}
	return fchmod(fd, image_mode(may_inspect_all()));
}

static int sealed_memfd(const struct image *image)
{
	static const char name[] = "usernsproc";
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);

	if (fd < 0 && errno == EINVAL) /* Linux < 6.3: always executable */
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	fd = above_stdio(fd);
	if (fd < 0)
		return -1;
	if (write_image(fd, image) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
		close_keeping_errno(fd);
		return -1;
	}
	return fd;
}

/* A fork in another thread may have copied the descriptor that writes, and what
 * can be written cannot be executed. A lease is refused for the same reason. */
static int has_writer(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		return errno == EAGAIN;
	fcntl(fd, F_SETLEASE, F_UNLCK);
	return 0;
}

/* A file without a name, for vm.memfd_noexec=2. */
static int unlinked_file_in(const char *directory, const struct image *image)
{
	struct statvfs file_system;
	int writable, fd = -1, attempts = 20;

	if (statvfs(directory, &file_system) < 0 || file_system.f_flag & ST_NOEXEC)
		return -1;
	do {
		if (fd >= 0)
			close(fd);
		writable = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0700);
		if (writable < 0)
			return -1;
		fd = above_stdio(reopen(writable, O_RDONLY)); /* that cannot write: only so can it be executed */
		if (fd >= 0 && write_image(writable, image) < 0) {
			close_keeping_errno(fd);
			fd = -1;
		}
		close_keeping_errno(writable);
	} while (fd >= 0 && has_writer(fd) && --attempts);
	return fd;
}

static int unlinked_file(const struct image *image)
{
	static const char *const directories[] = {"/dev/shm", "/tmp", "/var/tmp", "/run"};
	int fd = -1;

	for (size_t i = 0; fd < 0 && i < sizeof(directories) / sizeof(directories[0]); i++)
		fd = unlinked_file_in(directories[i], image);
	return fd;
}

/* Writing more would be EFBIG, and SIGXFSZ, which ends a program that does not ignore it. */
static int exceeds_file_size_limit(size_t size)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < size;
}

int make_image(enum program program, const void *parameters, size_t parameters_size, int *on_disk,
	       struct failure *failure)
{
	struct image image;
	int fd;

	if (exceeds_file_size_limit(set_parts(&image, program, parameters, parameters_size)))
		return fail(failure, STEP_memfd_create, EFBIG);
	fd = sealed_memfd(&image);
	if (fd < 0 && errno == EACCES) {
		fd = unlinked_file(&image);
		if (fd < 0)
			errno = EACCES;
		else
			*on_disk = 1;
	}
	if (fd < 0)
		fail(failure, STEP_memfd_create, errno);
	return fd;
}

/* ---- the launcher's, which is the same for all ---- */

/* Made once, when the module is loaded. The file does not change, so a forked copy of the program may use it too. */
static struct kept shared; /* where there is none, each launcher gets one of its own */

static void make_shared_image(void)
{
	struct image image;
	int fd = -1;

	if (!exceeds_file_size_limit(set_parts(&image, PROGRAM_LAUNCHER, NULL, 0)))
		fd = sealed_memfd(&image);
	if (fd < 0)
		return;
	if (identify(fd, &shared.identity) < 0)
		close(fd);
	else
		shared.fd = fd;
}

void open_shared_image(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, make_shared_image);
}

/* Programs change their ids, rights and user namespace. Who may read the file, and in which user namespace its owner
 * has an id, decides who may look at a process that executes it. */
static int is_own(const struct whereabouts *found, int inspects_all)
{
	return found->uid == geteuid() && found->gid == getegid() && (found->mode & 0777) == image_mode(inspects_all);
}

int launcher_image(int inspects_all, int *is_shared, int *on_disk, struct failure *failure)
{
	struct whereabouts found;

	*is_shared = is_still_there(&shared, &found) > 0 && is_own(&found, inspects_all);
	return *is_shared ? shared.fd : make_image(PROGRAM_LAUNCHER, NULL, 0, on_disk, failure);
}

/* The launcher's parameters, and behind them all that they point to. Pointers
 * are offsets in it. */
struct arena {
	char *memory;
	size_t used;
};

static size_t vector_length(char *const *vector)
{
	size_t length = 0;

	while (vector[length])
		length++;
	return length;
}

static size_t vector_size(char *const *vector)
{
	size_t size = sizeof(uint64_t);

	for (; *vector; vector++)
		size += sizeof(uint64_t) + strlen(*vector) + 1;
	return size + 8;
}

static void *put(struct arena *arena, const void *data, size_t size)
{
	size_t offset = arena->used;

	if (size) /* a vector of length 0 may be NULL */
		memcpy(arena->memory + offset, data, size);
	arena->used += size;
	return (void *)(uintptr_t)offset;
}

static void align(struct arena *arena)
{
	arena->used = (arena->used + 7) & ~(size_t)7;
}

static char *const *put_vector(struct arena *arena, char *const *vector)
{
	size_t length = vector_length(vector), offset;

	align(arena);
	offset = arena->used;
	arena->used += (length + 1) * sizeof(uint64_t);
	for (size_t i = 0; i < length; i++) {
		uint64_t at = (uint64_t)(uintptr_t)put(arena, vector[i], strlen(vector[i]) + 1);
		memcpy(arena->memory + offset + i * sizeof(at), &at, sizeof(at));
	}
	return (char *const *)(uintptr_t)offset;
}

struct launcher_parameters *launcher_block(const struct launcher_parameters *parameters, struct failure *failure)
{
	struct launcher_parameters own = *parameters;
	size_t calls_size = own.setup.count * sizeof(struct system_call);
	size_t joins_size = own.namespaces.join_count * sizeof(struct join);
	size_t fds_size = (size_t)own.setup.fds.count * sizeof(int);
	size_t size = sizeof(own) + calls_size + own.setup.data_size + joins_size + fds_size + 8 +
		      vector_size(own.candidates) + own.messages_size;
	struct arena arena = {.memory = calloc(1, size), .used = sizeof(own)};

	if (!arena.memory) {
		fail(failure, STEP_prepare, ENOMEM);
		return NULL;
	}
	own.setup.calls = put(&arena, own.setup.calls, calls_size);
	own.namespaces.joins = put(&arena, own.namespaces.joins, joins_size);
	own.setup.data = (char *)put(&arena, own.setup.data, own.setup.data_size);
	own.setup.fds.fds = (int *)put(&arena, own.setup.fds.fds, fds_size);
	own.candidates = put_vector(&arena, own.candidates);
	own.messages = put(&arena, own.messages, own.messages_size);
	own.size = arena.used;
	return memcpy(arena.memory, &own, sizeof(own));
}
